r"""Structures of answers: numbers, lists, tuples, intervals, relations.

Order, brackets and units are in the structure, so that their comparison is a rule and
not a property of a parser: `1,2` and `\{2,1\}` are unordered, `(1,2)` is ordered, and
`[0,1)` differs from `(0,1)`.
"""

from dataclasses import dataclass

from targetsft_jax.evaluation.graders.expressions import Expression


@dataclass(frozen=True)
class Text:
    """Words, in lower case, single spaces between them."""

    words: str


@dataclass(frozen=True)
class Scalar:
    """An expression with its unit, a percent sign, or the base of its digits."""

    expression: Expression
    letters: str = ""
    """The text itself if it is letters only."""
    unit: str | None = None
    percent: bool = False
    base: int | None = None
    digits: str = ""


@dataclass(frozen=True)
class Dots:
    """The ellipsis of a sequence."""


@dataclass(frozen=True)
class Group:
    """Several answers: list, set, tuple or ratio."""

    kind: str
    items: tuple["Structure", ...]
    conjunction: bool = False
    """The items are joined by "and" and are relations that all hold."""


@dataclass(frozen=True)
class Interval:
    """An interval with at least one square bracket, or of a set expression."""

    left: "Structure"
    right: "Structure"
    left_open: bool
    right_open: bool


@dataclass(frozen=True)
class SetExpression:
    """Sets joined by unions, intersections or differences, from the left."""

    parts: tuple["Structure", ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """A value with its name: `x = 5`, `f(x) = 2x`, `x \\in [0,1]`."""

    name: tuple[str, ...]
    value: "Structure"
    sides: "Relation | None" = None


@dataclass(frozen=True)
class Relation:
    """A chain of relations between expressions."""

    sides: tuple["Structure", ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """A matrix or vector, by rows."""

    rows: tuple[tuple["Structure", ...], ...]


Structure = (
    Text | Scalar | Dots | Group | Interval | SetExpression | Named | Relation | Matrix
)

EMPTY = Text("empty set")
