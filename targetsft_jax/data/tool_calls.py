"""Tool calls of assistant turns, and definitions of tools, in OpenAI's form."""

import json
from collections.abc import Mapping
from typing import Any

from targetsft_jax.data.json_rows import decode
from targetsft_jax.data.row_error import SHORT, SURROGATE, RowError, is_unicode, kind

Call = dict[str, Any]
"""{"type": "function", "function": {"name": str, "arguments": dict}}, perhaps "id"."""


def parse_calls(calls: Any, path: str, origin: str) -> list[Call]:
    """Parse the tool calls of a turn; arguments that are JSON text become an object.

    Args:
        calls: null, or a list of {"function": {"name", "arguments"}}, or of
            {"name", "arguments"}.
        path: path of the list, for error messages.
        origin: `file:row`.

    Raises:
        RowError: another value; arguments that are not an object.
    """
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise RowError(origin, f"{path} is {kind(calls)}; expected a list of calls")
    return [_call(call, f"{path}[{i}]", origin) for i, call in enumerate(calls)]


def parse_json_calls(text: str, path: str, origin: str) -> list[Call]:
    """Parse JSON text of a call or of a list of calls, as in a ShareGPT turn.

    Raises:
        RowError: as `parse_calls`; not JSON, or no call.
    """
    value = _decoded(text, path, origin)
    calls = parse_calls(value if isinstance(value, list) else [value], path, origin)
    if not calls:
        raise RowError(origin, f"{path} is an empty list; expected a call")
    return calls


def parse_tools(value: Any, name: str, origin: str) -> list[dict[str, Any]]:
    """Parse the definitions of tools: a list, JSON text of a list, or nothing.

    Raises:
        RowError: another value, or a definition without the name of its function.
    """
    if value is None or value == "":
        return []
    if isinstance(value, str):
        value = _decoded(value, f"field {name!r}", origin)
    if not isinstance(value, list):
        problem = f"field {name!r} is {kind(value)}; expected a list of tools"
        raise RowError(origin, problem)
    for i, tool in enumerate(value):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(
            function.get("name"), str
        ):
            raise RowError(
                origin,
                f'{name}[{i}] is {SHORT.repr(tool)}; expected {{"type": "function",'
                ' "function": {"name": …}}',
            )
    _check_unicode(value, f"field {name!r}", origin)
    return value


def call_text(calls: Any) -> str:
    """JSON text of calls or tools; empty if there are none."""
    return json.dumps(calls, ensure_ascii=False, default=repr) if calls else ""


def _call(call: Any, path: str, origin: str) -> Call:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise RowError(origin, f"{path} is {kind(call)}; expected a call of a function")
    name, arguments = function.get("name"), function.get("arguments", {})
    if not isinstance(name, str) or not name.strip():
        raise RowError(origin, f"{path} has name {SHORT.repr(name)}; expected text")
    if isinstance(arguments, str):
        arguments = _decoded(arguments, f"{path}.arguments", origin)
    if not isinstance(arguments, Mapping):
        raise RowError(
            origin, f"{path}.arguments is {kind(arguments)}; expected an object"
        )
    parsed: Call = {
        "type": "function",
        "function": {"name": name, "arguments": dict(arguments)},
    }
    if isinstance(call.get("id"), str):
        parsed["id"] = call["id"]
    _check_unicode(parsed, path, origin)
    return parsed


def _decoded(text: str, path: str, origin: str) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError) as error:
        raise RowError(origin, f"{path} is not JSON ({error})") from None


def _check_unicode(value: Any, path: str, origin: str) -> None:
    if not is_unicode(call_text(value)):
        raise RowError(origin, f"{path} has {SURROGATE}")
