"""Field map: from the fields of a row to a conversation, by names and templates."""

import re
import string
from collections.abc import Collection, Iterator

from targetsft_jax.keys import Domain, key, section
from targetsft_jax.targets.inputs import column_names

_TEMPLATE_CHARACTERS = 100_000
_LATEX = (
    "nabla ne neg neq newline ni nleq nmid nolimits nonumber not notin nu tag tan tanh"
    " tau tbinom text textbf textit textrm textstyle tfrac the theta thinspace tilde"
    " times tiny to top triangle"
)
_ESCAPE = re.compile(rf"\\(?!(?:{'|'.join(_LATEX.split())})(?![a-z]))[nt]")


def _is_template(text: str) -> bool:
    """True for a field name, and for a template of text and {NAME} or {NAME?} holes."""
    if not text.strip() or len(text) > _TEMPLATE_CHARACTERS:
        return False
    try:
        holes = list(string.Formatter().parse(text))
    except ValueError:
        return False
    return not any(
        name in ("", "?") or format_spec or conversion
        for _, name, format_spec, conversion in holes
    )


TEMPLATE = Domain(
    "the name of a field, or a template such as 'Question: {question}' whose holes are"
    " field names (double a literal brace)",
    _is_template,
)


@section
class FieldMap:
    """Map from the fields of a row to a conversation.

    Each value is the name of a field (`question`) or nested field (`options.A`), or a
    template such as `"{CONTEXTS} Question: {QUESTION}"`. A list in a hole is joined by
    newlines; a literal brace is doubled. A hole `{input?}` may be empty, null or
    missing; the white space before it is then left out.
    """

    messages: str | None = key(
        "messages",
        'Field with the list of {"role", "content"}; read if `prompt` is null.',
        TEMPLATE,
    )
    prompt: str | None = key(None, "The user's turn.", TEMPLATE)
    response: str | None = key(
        None, "The assistant's turn; required for training with `prompt`.", TEMPLATE
    )
    text: str | None = key(
        None,
        "A text without roles, of which every token and the end are trained; replaces"
        " `messages` and `prompt`.",
        TEMPLATE,
    )
    system: str | None = key(
        None, "A system message placed before the other turns.", TEMPLATE
    )
    answer: str | None = key(
        None,
        "The gold answer, or a worked solution that ends in it; required for"
        " evaluation.",
        TEMPLATE,
    )
    tools: str | None = key(
        None,
        "Field with the definitions of tools, a list or JSON text; may be missing. Rows"
        " of a known shape with lists of turns have them in `tools`.",
        TEMPLATE,
    )
    columns: dict[str, str] = key(
        dict,
        "Per-token input of a method -> its field, where the names differ; inputs are "
        + ", ".join(column_names())
        + ".",
        Domain(
            f"some of {', '.join(column_names())}, each with the name of a field",
            lambda columns: (
                columns.keys() <= set(column_names()) and all(columns.values())
            ),
        ),
    )

    def field_of(self, column: str) -> str:
        """Name of the field with a per-token input."""
        return self.columns.get(column, column)


def literal_escape(template: str) -> str | None:
    r"""Backslash and letter that a shell or YAML did not turn into a line break or tab.

    LaTeX commands such as \neq or \text are none.
    """
    match = _ESCAPE.search(template)
    return match and match.group()


def parts(template: str) -> Iterator[tuple[str, str | None, bool]]:
    """Parts of a template: text, the name of the hole after it, True if `{NAME?}`.

    The name is None for text at the end.
    """
    for text, name, _, _ in string.Formatter().parse(template):
        optional = name is not None and name.endswith("?")
        yield text, name[:-1] if name and optional else name, optional


def is_template(template: str, names: Collection[str]) -> bool:
    """True for a template with holes, False for the name of a field."""
    return template not in names and ("{" in template or "}" in template)


def used_fields(fields: FieldMap, names: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Fields that a map reads, dots included; True for those that must exist.

    Args:
        fields: the map.
        names: fields of the rows; one of them is never read as a template.
    """
    templates: list[str | None]
    if fields.text is not None:
        templates = [fields.text, fields.answer]
    elif fields.prompt is None:
        templates = [fields.messages, fields.system, fields.answer]
    else:
        templates = [fields.prompt, fields.response, fields.system, fields.answer]
    if fields.tools is not None:
        yield fields.tools, False
    for template in templates:
        if template is None:
            continue
        if not is_template(template, names):
            yield template, True
            continue
        for _, name, optional in parts(template):
            if name is not None:
                yield name, not optional
