"""Sandbox of chat templates: that of transformers, with limits on time and size.

Filters, functions and tags are those of `apply_chat_template`, so that a template
renders the same text here and where the export is served.
"""

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from targetsft_jax.data.template_limits import (
    SHORT,
    LimitError,
    charge_call,
    charge_operator,
    charge_result,
    counted,
    limited,
    limited_filter,
    weighed,
)
from targetsft_jax.data.tool_calls import call_text

# Half-open intervals of characters.
Spans = list[tuple[int, int]]

# The longest templates of public models have 20,000 characters.
_LONGEST = 1_000_000
_WIDEST_INDENT = 16
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@functools.lru_cache
def has_generation_block(template: str) -> bool:
    """True if a template marks the assistant's text with `{% generation %}`."""
    return _GENERATION.search(template) is not None


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    *,
    prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, Spans]:
    """Render a conversation as text.

    Args:
        template: source of the chat template.
        messages: the turns.
        variables: further variables of the template, such as `eos_token`.
        prompt: end with the header of the assistant's next turn.
        tools: definitions of tools; a template has None in place of none.

    Returns:
        The text, and the spans inside `{% generation %}` marks in their order.

    Raises:
        ValueError: the template raises, is not valid, exceeds its limits on time and
            size, or writes an unpaired surrogate.
    """
    size = len(call_text(tools))
    for message in messages:
        size += len(message["content"]) + len(call_text(message.get("tool_calls")))
    conversation = {
        "messages": [_without_empty(message) for message in messages],
        "tools": [dict(tool) for tool in tools] or None,
        "documents": None,
        "add_generation_prompt": prompt,
    }
    try:
        text, spans = _render(template, conversation | dict(variables), size)
        if not text.isascii():
            text.encode()
    except LimitError as error:
        raise ValueError(
            f"the chat template exceeds its limits: {error}; shorten its loops and"
            " repetitions, or use another template"
        ) from error
    except TemplateError as error:
        raise ValueError(f"the chat template refuses it: {_brief(error)}") from error
    except RecursionError as error:
        raise ValueError(
            "the chat template fails: it nests too deeply or calls itself without end;"
            " repair it, or use another template"
        ) from error
    except UnicodeEncodeError as error:
        raise ValueError(
            "the chat template writes an unpaired surrogate, such as \\ud800, which is"
            " not a character; repair it, or use another template"
        ) from error
    # A template may call any method of text, numbers and lists.
    except Exception as error:  # noqa: BLE001
        raise ValueError(
            f"the chat template fails: {type(error).__name__}: {_brief(error)};"
            " repair it, or use another template"
        ) from error
    return text, spans


def _without_empty(message: Mapping[str, Any]) -> dict[str, Any]:
    """Message for a template: content of calls alone is None, as in OpenAI's form."""
    if message.get("tool_calls") and not message["content"]:
        return {**message, "content": None}
    return dict(message)


def _brief(error: Exception) -> str:
    return " ".join(str(error)[:300].split())


def _render(
    template: str,
    variables: Mapping[str, Any],
    size: int,
) -> tuple[str, Spans]:
    if len(template) > _LONGEST:
        raise TemplateError(
            f"it has {len(template):,} characters; expected at most {_LONGEST:,}"
        )
    compiled = _compile(template)
    track = _Track()
    token = _TRACK.set(track)
    try:
        with limited(size):
            for block in compiled.generate(variables):
                track.blocks.append(block)
                track.length += len(block)
    finally:
        _TRACK.reset(token)
    return "".join(track.blocks), track.spans


@functools.lru_cache(maxsize=32)
def _compile(template: str) -> Template:
    # Constant expressions are computed here.
    with limited(0):
        return _Environment().from_string(template)


class _Track:
    """Text rendered so far, and the spans of its generation marks."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.length = 0
        self.spans: Spans = []


_TRACK: ContextVar[_Track] = ContextVar("track")


class _Generation(Extension):
    """The tag `{% generation %}`, which marks the assistant's text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked")
        block = nodes.CallBlock(call, [], [], body)
        block.set_lineno(line)
        return block

    def _marked(self, caller: Macro) -> str:
        text = caller()
        track = _TRACK.get()
        track.spans.append((track.length, track.length + len(text)))
        return text


class _CodeGenerator(CodeGenerator):
    """Compiler of templates that charges loops, containers and concatenations."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self._wrapped = {**self._loops(), id(node.iter): ("counted", text)}
        super().visit_For(node, frame)

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        name, cost = self._loops().pop(id(node), (None, 0))
        if name is None and self._makes_container(node):
            name, cost = "weighed", None
        if name is None:
            return super().visit(node, *args, **kwargs)
        self.write(f"environment.{name}(")
        super().visit(node, *args, **kwargs)
        self.write(")" if cost is None else f", {cost})")
        return None

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _loops(self) -> dict[int, tuple[str, int | None]]:
        return self.__dict__.setdefault("_wrapped", {})

    @staticmethod
    def _makes_container(node: nodes.Node) -> bool:
        if isinstance(node, nodes.Tuple):
            return node.ctx == "load"
        return isinstance(node, nodes.List | nodes.Dict)


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _CodeGenerator
    intercepted_binops = frozenset(("+", "*", "**", "%"))
    counted = staticmethod(counted)
    weighed = staticmethod(weighed)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=weighed,
        )
        # Random text would be other data in every run.
        del self.globals["lipsum"], self.filters["random"]
        self.filters["tojson"] = _tojson
        for name, function in self.filters.items():
            self.filters[name] = limited_filter(name, function)
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is str and type(right) is str:
            text = left + right
            return text if len(text) < SHORT else weighed(text)
        charge_operator(operator, left, right)
        return self.binop_table[operator](left, right)

    def call(  # type: ignore[override]
        __self,  # noqa: B902, N805
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, _Generation):
            return __context.call(__obj, *args, **kwargs)
        name = getattr(__obj, "__name__", "")
        if isinstance(__obj, Macro):
            name = "list"
        elif isinstance(__obj, _FormatMethod):
            owner, name = __obj.text, "format"
        charge_call(name, args if owner is None else (owner, *args), kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        charge_result(result)
        return result

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        return wrapped and _FormatMethod(wrapped, value.__self__)

    @staticmethod
    def join(context: Context, parts: tuple[Any, ...]) -> str:
        """The operator `~`."""
        from jinja2.runtime import markup_join, str_join

        weighed(parts)
        return (markup_join if context.eval_ctx.autoescape else str_join)(parts)


class _FormatMethod:
    """The sandboxed method `format` or `format_map` of a text."""

    def __init__(self, method: Any, text: str):
        self._method, self.text = method, text

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return self._method(*args, **kwargs)


class _Dict:
    """The function `dict`, without the attributes of the type."""

    __name__ = "dict"

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """The object `namespace`, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # type: ignore[misc]  # noqa: N805
        # `self` may be a name of the template's.
        self, *values = args
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, weighed(value))

    def __repr__(self) -> str:
        # Namespaces may hold each other: a text of all of them could be endless.
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no attribute {name!r}")


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > _WIDEST_INDENT:
        # Every line of a deep object repeats it many times.
        raise LimitError(f"it indents JSON by more than {_WIDEST_INDENT}")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


_Namespace.__name__ = "namespace"
_raise_exception.__name__ = "raise_exception"
_strftime_now.__name__ = "strftime_now"
