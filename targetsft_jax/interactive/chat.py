"""Conversation with a model on a terminal or a pipe, streamed token by token."""

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from targetsft_jax.data.turns import Message
from targetsft_jax.interactive.model import Model

COMMANDS = {
    "/reset": "forget the conversation",
    "/quit": "end",
    "/help": "list these commands",
}

_PROMPT = "> "


class Chat:
    """A conversation; each line of standard input is a message of the user.

    Ctrl-C stops an answer, of which the part so far stays in the conversation. Ctrl-D,
    or the end of a pipe, ends the conversation.

    Args:
        model: the model, with a chat template.
        settings: arguments of `Model.stream`.
        system: content of the system message; None for no such message.
    """

    def __init__(self, model: Model, settings: Mapping[str, Any], system: str | None):
        self._model, self._settings = model, settings
        self._start: list[Message] = []
        if system is not None:
            self._start = [{"role": "system", "content": system}]
        self._messages = list(self._start)
        self._is_terminal = sys.stdin.isatty()

    def run(self) -> None:
        """Answer messages until the input ends."""
        if self._is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # Editing and history of `input`.
            sys.stderr.write(
                f"{self._model!r}\n/help lists the commands; Ctrl-C stops an answer\n"
            )
        while (line := self._read()) is not None:
            text = line.strip()
            if text == "/quit":
                return
            if text == "/reset":
                self._messages = list(self._start)
                self._note("the conversation is empty")
            elif text == "/help":
                for name, help in COMMANDS.items():
                    self._note(f"{name}  {help}")
            elif text.startswith("/") and text.split()[0][1:].isalpha():
                names = ", ".join(COMMANDS)
                self._note(f"{text.split()[0]} is not a command; expected {names}")
            elif text:
                self._answer(text)

    def _read(self) -> str | None:
        """Next line, or None at the end of the input."""
        if not self._is_terminal:
            return sys.stdin.readline() or None
        while True:
            try:
                return input(_PROMPT)
            except EOFError:
                sys.stdout.write("\n")
                return None
            except KeyboardInterrupt:
                sys.stdout.write("\n")
                self._note("/quit or Ctrl-D ends the conversation")

    def _answer(self, text: str) -> None:
        """Stream the answer to a message, and add both to the conversation."""
        messages = [*self._messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        note = None
        try:
            stream = self._model.stream(messages, **self._settings)
            for piece in stream:
                pieces.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
            if not stream.finished:
                note = stream.limit_reached
        except KeyboardInterrupt:
            if not self._is_terminal:
                raise
            note = "stopped"
        except ValueError as error:
            self._note(f"{error}\nthe message is left out; /reset begins again")
            return
        sys.stdout.write("\n")
        sys.stdout.flush()
        if note:
            self._note(note)
        answer = "".join(pieces)
        if answer.strip():
            self._messages = [*messages, {"role": "assistant", "content": answer}]
        else:
            self._note("the answer is empty; the message is left out")

    def _note(self, text: str) -> None:
        """Write a line that is not part of an answer."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
