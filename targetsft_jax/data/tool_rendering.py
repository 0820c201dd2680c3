"""Proof that a chat template renders tools, their calls and their results.

A template without tools ignores them, and the row would be trained without the call.
"""

import re
from typing import Any

from targetsft_jax.data.rendering import ChatTemplate, Messages
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.tool_calls import call_text
from targetsft_jax.data.turns import Message

# Private-use characters; the control tokens are located by others.
_FIRST, _LAST = 0x100000, 0x10FFFD
_MARK = re.compile("[\U00100000-\U0010fffd]")


def refuse_unrendered(template: ChatTemplate, messages: Messages, origin: str) -> None:
    """Refuse a conversation whose tools, calls or results the template leaves out.

    Every name and the first argument of every call, every result and every definition
    gets a private-use character, which must be in the rendered text.

    Args:
        template: with the tools of the conversation.
        messages: the turns.
        origin: `file:row`.

    Raises:
        RowError: names the first part that is left out.
    """
    marks = _Marks()
    marked = [_marked(message, i, marks) for i, message in enumerate(messages)]
    tools = [_marked_tool(tool, i, marks) for i, tool in enumerate(template.tools)]
    if not marks.parts:
        return
    texts = [message["content"] + call_text(message) for message in messages]
    if any(map(_MARK.search, [*texts, call_text(template.tools)])):
        raise RowError(
            origin,
            "the row has tools and private-use characters, so that its rendering cannot"
            " be verified; remove the characters",
        )
    reason = ""
    try:
        text, _ = template.with_tools(tools).render(marked, origin)
    except RowError as error:
        text, reason = "", f" ({str(error).removeprefix(f'{origin}: ')})"
    for mark, part in marks.parts.items():
        if mark not in text:
            raise RowError(
                origin,
                f"the chat template {template.name} does not render {part}{reason}; use"
                " a template with tools, or leave the row out",
            )


class _Marks:
    """Marks that were set, and the part of the conversation that each is in."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}

    def on(self, text: str, part: str) -> str:
        """Text with a new mark at its end."""
        mark = chr(min(_FIRST + len(self.parts), _LAST))
        self.parts[mark] = part
        return text + mark


def _marked(message: Message, turn: int, marks: _Marks) -> Message:
    if message["role"] == "tool":
        content = message["content"].rstrip()
        return message | {"content": marks.on(content, f"the result in turn {turn}")}
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        part = f"the call of {function['name']!r} in turn {turn}"
        arguments = function["arguments"]
        if arguments:
            first, *others = arguments
            name = marks.on(first, f"the arguments of {part}")
            arguments = {name: arguments[first]} | {k: arguments[k] for k in others}
        renamed = {"name": marks.on(function["name"], part), "arguments": arguments}
        calls.append(call | {"function": renamed})
    return message | {"tool_calls": calls}


def _marked_tool(tool: dict[str, Any], number: int, marks: _Marks) -> dict[str, Any]:
    function = tool.get("function", tool)
    name = marks.on(function["name"], f"tool {number}, {function['name']!r}")
    renamed = {**function, "name": name}
    return {**tool, "function": renamed} if "function" in tool else renamed
