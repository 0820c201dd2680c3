"""Turns of a conversation: parsed from lists of objects, with their roles checked."""

from collections.abc import Mapping
from typing import Any

from targetsft_jax.data.row_error import SHORT, SURROGATE, RowError, is_unicode, kind
from targetsft_jax.data.tool_calls import parse_calls, parse_json_calls

Message = dict[str, Any]
"""{"role": system | user | assistant | tool, "content": str}; of the assistant perhaps
"tool_calls", of a tool perhaps "name" and "tool_call_id"."""

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
"""Speaker of a ShareGPT turn, its `from` -> role."""


def parse_turns(
    turns: Any, name: str, origin: str
) -> tuple[list[Message], frozenset[int]]:
    """Parse a list of turns, {"role", "content"} or {"from", "value"} each.

    The content is text, or a list of text parts, {"type": "text", "text": …}, which
    are concatenated.

    Args:
        turns: the value of a field.
        name: name of the field, for error messages.
        origin: `file:row`.

    Returns:
        The messages, and the indices of assistant turns with `weight: 0`, which are
        context and not trained.

    Raises:
        RowError: not a list of turns; content other than text; an empty response.
    """
    if not isinstance(turns, list) or not turns:
        problem = "an empty list" if turns == [] else kind(turns)
        raise RowError(origin, f"field {name!r} is {problem}; expected a list of turns")
    messages, untrained = [], set()
    for i, turn in enumerate(turns):
        path = f"{name}[{i}]"
        if not isinstance(turn, Mapping):
            raise RowError(origin, f"{path} is {kind(turn)}; expected an object")
        message = _message(turn, path, origin)
        if message["role"] == "assistant":
            if not message["content"].strip() and not message.get("tool_calls"):
                raise RowError(origin, f"{path}.content is empty; expected a response")
            if not _weight(turn, path, origin):
                untrained.add(i)
        messages.append(message)
    return messages, frozenset(untrained)


def check_roles(messages: list[Message], origin: str, train: bool) -> None:
    """Check the order of the roles, and that every text is Unicode.

    Args:
        messages: the turns.
        origin: `file:row`.
        train: require an assistant turn; otherwise the last turn must be the user's.

    Raises:
        RowError: roles other than system?, user, …; an unpaired surrogate.
    """
    roles = [message["role"] for message in messages]
    for i, role in enumerate(roles):
        if role == "tool":
            if i == 0 or not (roles[i - 1] == "tool" or _calls(messages[i - 1])):
                problem = f"turn {i} is of a tool, and turn {i - 1} has no tool calls"
                raise RowError(origin, f"{problem}; expected it after a call")
        elif role not in ("system", "user", "assistant"):
            raise RowError(
                origin,
                f"turn {i} has role {SHORT.repr(role)}; expected system, user or"
                " assistant",
            )
        if not is_unicode(messages[i]["content"]):
            raise RowError(origin, f"turn {i} has {SURROGATE}")
        if role == "system" and i > 0:
            raise RowError(origin, f"turn {i} has role system; expected it in turn 0")
    if not train and any(
        role == "tool" or _calls(m) for role, m in zip(roles, messages)
    ):
        raise RowError(origin, "the prompt has tool calls, which are not evaluated")
    speakers = [role for role in roles if role != "system"]
    if speakers[:1] != ["user"]:
        first = speakers[0] if speakers else "none"
        raise RowError(origin, f"the first speaker is {first}; expected user")
    if train and "assistant" not in speakers:
        raise RowError(origin, "no assistant turn: there is nothing to train on")
    if not train and speakers[-1] != "user":
        raise RowError(origin, "the prompt does not end in a user turn")


def _calls(message: Message) -> bool:
    return bool(message.get("tool_calls"))


def _message(turn: Mapping[str, Any], path: str, origin: str) -> Message:
    """Message of a turn in either form, with its tool calls."""
    if turn.get("from") == "function_call" and isinstance(turn.get("value"), str):
        calls = parse_json_calls(turn["value"], f"{path}.value", origin)
        return {"role": "assistant", "content": "", "tool_calls": calls}
    calls = []
    if turn.get("role") == "assistant":
        calls = parse_calls(turn.get("tool_calls"), f"{path}.tool_calls", origin)
        if calls and turn.get("content") is None:
            turn = {**turn, "content": ""}
    role, content = _role_and_content(turn, path, origin)
    message: Message = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = calls
    if role == "tool":
        names = ("name", "tool_call_id")
        message |= {key: turn[key] for key in names if isinstance(turn.get(key), str)}
    return message


def _role_and_content(
    turn: Mapping[str, Any], path: str, origin: str
) -> tuple[str, str]:
    sharegpt = "from" in turn and "role" not in turn
    names = ("from", "value") if sharegpt else ("role", "content")
    for key in names:
        parts = key == names[1] and isinstance(turn.get(key), list)
        if not isinstance(turn.get(key), str) and not parts:
            problem = kind(turn[key]) if key in turn else "missing"
            raise RowError(origin, f"{path}.{key} is {problem}; expected text")
    role = turn[names[0]]
    if sharegpt:
        if role not in ROLES:
            raise RowError(
                origin,
                f"{path}.from is {SHORT.repr(role)}; expected one of"
                f" {', '.join(ROLES)}",
            )
        role = ROLES[role]
    return role, _content(turn[names[1]], f"{path}.{names[1]}", origin)


def _content(content: str | list[Any], path: str, origin: str) -> str:
    """Text of a turn; text parts are concatenated."""
    if isinstance(content, str):
        return content
    if not content:
        raise RowError(origin, f"{path} is an empty list; expected text")
    for i, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise RowError(
                origin, f"{path}[{i}] is {kind(part)}; expected a part with a type"
            )
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RowError(
                origin,
                f"{path}[{i}] has type {SHORT.repr(part.get('type'))}; expected text,"
                ' {"type": "text", "text": …}, since only text is trained',
            )
    return "".join(part["text"] for part in content)


def _weight(turn: Mapping[str, Any], path: str, origin: str) -> bool:
    """The `weight` of a turn in OpenAI's format: 0 or 1, 1 if absent or null."""
    weight = turn.get("weight")
    if weight is None:
        return True
    if weight not in (0, 1) or isinstance(weight, bool):
        raise RowError(
            origin, f"{path}.weight is {SHORT.repr(weight)}; expected 0 or 1"
        )
    return bool(weight)
