"""Compare two structures: kinds, order, brackets and units by rule, values by value."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from targetsft_jax.evaluation.graders import expressions
from targetsft_jax.evaluation.graders.realsets import RealSet, contains_only
from targetsft_jax.evaluation.graders.structure import (
    EMPTY,
    Dots,
    Group,
    Interval,
    Matrix,
    Named,
    Relation,
    Scalar,
    SetExpression,
    Structure,
    Text,
)

_FLIPPED = {
    "<": ">",
    ">": "<",
    r"\le": r"\ge",
    r"\ge": r"\le",
    "=": "=",
    r"\ne": r"\ne",
}


def equivalent(gold: Structure, stated: Structure) -> bool:
    """True if a stated answer is the gold answer.

    A name that only one of them has does not count: `x = 5` is 5.
    """
    if isinstance(gold, Named) and isinstance(stated, Named):
        if _same_names(gold, stated):
            return equivalent(gold.value, stated.value)
        return _related(gold.sides, stated.sides)
    if isinstance(stated, Named):
        if isinstance(gold, Relation):
            return _related(gold, stated.sides) or _same_sets(gold, stated)
        return equivalent(gold, stated.value)
    if isinstance(gold, Named):
        if isinstance(stated, Relation):
            return _related(gold.sides, stated) or _same_sets(gold, stated)
        return equivalent(gold.value, stated)
    if isinstance(gold, Text) or isinstance(stated, Text):
        return _same_text(gold, stated)
    if isinstance(gold, Scalar) and isinstance(stated, Scalar):
        return _same_scalar(gold, stated)
    if isinstance(gold, Relation) and isinstance(stated, Relation):
        return _related(gold, stated) or _same_sets(gold, stated)
    if _is_set(gold) or _is_set(stated):
        return _same_interval(gold, stated) or _same_sets(gold, stated)
    gold, stated = _vector(gold), _vector(stated)
    if isinstance(gold, Matrix) and isinstance(stated, Matrix):
        return len(gold.rows) == len(stated.rows) and all(
            _in_order(a, b) for a, b in zip(gold.rows, stated.rows)
        )
    if isinstance(gold, Group) and isinstance(stated, Group):
        return _same_group(gold, stated)
    ratio, scalar = (gold, stated) if isinstance(gold, Group) else (stated, gold)
    if isinstance(ratio, Group) and isinstance(scalar, Scalar):
        if scalar.expression.names == {"reals"}:
            return _same_sets(gold, stated)
        return _is_ratio_of(ratio, scalar)
    return isinstance(gold, Dots) and isinstance(stated, Dots)


def _same_names(a: Named, b: Named) -> bool:
    if a.name == b.name:
        return True
    # y = 2x + 3 and f(x) = 2x + 3.
    short, long = sorted((a.name, b.name), key=len)
    return short == ("y",) and "(" in long


def _same_text(a: Structure, b: Structure) -> bool:
    words = []
    for side in (a, b):
        if isinstance(side, Text):
            words.append(side.words)
        elif isinstance(side, Scalar) and side.letters:
            words.append(side.letters.lower())
        elif isinstance(side, Group) and side.kind == "set" and not side.items:
            words.append(EMPTY.words)
        else:
            return False
    return words[0] == words[1] or words[0].replace(" ", "") == words[1].replace(
        " ", ""
    )


def _same_scalar(gold: Scalar, stated: Scalar) -> bool:
    if gold.unit is not None and stated.unit is not None and gold.unit != stated.unit:
        return False
    if gold.base != stated.base:
        return False
    if gold.base is not None:
        return gold.digits == stated.digits
    if gold.letters and stated.letters:
        if gold.letters.lower() == stated.letters.lower() and len(gold.letters) == 1:
            return True
        if max(len(gold.letters), len(stated.letters)) > 3:
            return gold.letters.lower() == stated.letters.lower()
    a, b = gold.expression, stated.expression
    if _is_unit_letter(gold, stated) or _is_unit_letter(stated, gold):
        return True
    if expressions.equal(a, b):
        return True
    if gold.percent == stated.percent:
        return False
    part, whole = (a, b) if gold.percent else (b, a)
    if part.value is None:
        return False
    return expressions.equal(expressions.of_value(part.value / 100), whole)


def _is_unit_letter(a: Scalar, b: Scalar) -> bool:
    r"""True for `5 m` against `5 \text{ m}`: a symbol that is the unit of the other."""
    if a.unit is None or len(a.unit) > 1 or a.expression.value is None:
        return False
    if b.unit is not None or len(b.expression.names) != 1:
        return False
    name = next(iter(b.expression.names))
    if name.lower() != a.unit:
        return False
    unit = expressions.parse_expression(name)
    scaled = expressions.product(a.expression.value, unit) if unit else None
    return scaled is not None and expressions.equal(scaled, b.expression)


def _vector(side: Structure) -> Structure:
    """A matrix of one row or column as a tuple; other structures as they are."""
    if not isinstance(side, Matrix):
        return side
    if len(side.rows) == 1 and len(side.rows[0]) > 1:
        return Group("row", side.rows[0])
    if len(side.rows) > 1 and all(len(row) == 1 for row in side.rows):
        return Group("column", tuple(row[0] for row in side.rows))
    return side


_ORDERED = frozenset(("tuple", "row", "column"))


def _same_group(gold: Group, stated: Group) -> bool:
    kinds = {gold.kind, stated.kind}
    if kinds == {"ratio"}:
        return _same_ratio(gold, stated)
    if kinds <= _ORDERED:
        return kinds != {"row", "column"} and _in_order(gold.items, stated.items)
    if "tuple" in kinds and _is_assignment(gold, stated):
        return True
    if not kinds <= {"list", "set"}:
        return False
    if any(isinstance(item, Dots) for item in (*gold.items, *stated.items)):
        return _in_order(gold.items, stated.items)
    if _same_sets(gold, stated):
        return True
    names = {item.name for item in stated.items if isinstance(item, Named)}
    if len(names) > 1 and not all(isinstance(item, Named) for item in gold.items):
        return False
    once = "set" in kinds
    return _in_any_order(gold.items, stated.items, once)


def _is_assignment(a: Group, b: Group) -> bool:
    """True for (1, 2) against x = 1, y = 2: values in the order of their names."""
    ordered, named = (a, b) if a.kind == "tuple" else (b, a)
    if named.kind != "list" or not all(isinstance(i, Named) for i in named.items):
        return False
    items = sorted(
        (i for i in named.items if isinstance(i, Named)), key=lambda i: i.name
    )
    if len({item.name for item in items}) < len(items):
        return False
    return _in_order(ordered.items, [item.value for item in items])


def _in_order(gold: Sequence[Structure], stated: Sequence[Structure]) -> bool:
    return len(gold) == len(stated) and all(map(equivalent, gold, stated))


def _in_any_order(
    gold: Sequence[Structure], stated: Sequence[Structure], once: bool
) -> bool:
    """True if items match one to one; repeated items count once in a set."""
    if once:
        gold, stated = _distinct(gold), _distinct(stated)
    if len(gold) != len(stated):
        return False
    rest = list(stated)
    for item in gold:
        match = next(
            (i for i, other in enumerate(rest) if equivalent(item, other)), None
        )
        if match is None:
            return False
        del rest[match]
    return True


def _distinct(items: Sequence[Structure]) -> list[Structure]:
    different: list[Structure] = []
    for item in items:
        if not any(equivalent(item, other) for other in different):
            different.append(item)
    return different


def _same_ratio(gold: Group, stated: Group) -> bool:
    if len(gold.items) != len(stated.items):
        return False
    if _in_order(gold.items, stated.items):
        return True
    a, b = _values(gold.items), _values(stated.items)
    if a is None or b is None or 0 in a or 0 in b:
        return False
    units = {getattr(item, "unit", None) for item in (*gold.items, *stated.items)}
    return units == {None} and len({x / y for x, y in zip(a, b)}) == 1


def _is_ratio_of(ratio: Group, scalar: Scalar) -> bool:
    r"""True for 3:4 against \frac{3}{4}."""
    values = _values(ratio.items)
    if ratio.kind != "ratio" or values is None or len(values) != 2 or values[1] == 0:
        return False
    if scalar.percent or scalar.unit or scalar.expression.value is None:
        return False
    return values[0] / values[1] == scalar.expression.value


def _values(items: Sequence[Structure]) -> list[Fraction] | None:
    values = [
        item.expression.value if isinstance(item, Scalar) else None for item in items
    ]
    return (
        None if any(v is None for v in values) else [v for v in values if v is not None]
    )


def _is_set(side: Structure) -> bool:
    return isinstance(side, Interval | SetExpression | Relation) or (
        isinstance(side, Group)
        and side.kind == "list"
        and all(isinstance(item, Relation) for item in side.items)
    )


def _same_interval(gold: Structure, stated: Structure) -> bool:
    """Compare endpoints, which may have symbols."""
    if not (isinstance(gold, Interval) and isinstance(stated, Interval)):
        return False
    return (
        (gold.left_open, gold.right_open) == (stated.left_open, stated.right_open)
        and equivalent(gold.left, stated.left)
        and equivalent(gold.right, stated.right)
    )


def _same_sets(gold: Structure, stated: Structure) -> bool:
    """Compare as sets of real numbers: intervals, unions and solved inequalities."""
    names = {side.name for side in (_named(gold), _named(stated)) if side is not None}
    if len(names) > 1:
        return False
    left, right = _real_set(gold), _real_set(stated)
    if left is None or right is None:
        return False
    return left == right


def _named(side: Structure) -> Named | None:
    """The variable of inequalities and memberships, as a name."""
    if isinstance(side, Named):
        return Named(side.name, side.value)
    if isinstance(side, Group) and side.items:
        return _named(side.items[0])
    if isinstance(side, Relation):
        for item in side.sides:
            if isinstance(item, Scalar) and len(item.expression.names) == 1:
                return Named(tuple(item.expression.names), item)
    return None


def _real_set(side: Structure) -> RealSet | None:
    if isinstance(side, Named):
        return _real_set(side.value) if not isinstance(side.value, Scalar) else None
    if isinstance(side, Interval):
        return _interval(side.left, side.right, side.left_open, side.right_open)
    if isinstance(side, Group) and side.kind == "tuple" and len(side.items) == 2:
        return _interval(side.items[0], side.items[1], True, True)
    if isinstance(side, Group) and side.kind == "set":
        points = [_real_set_of_point(item) for item in side.items]
        return _joined(points, "cup")
    if isinstance(side, Group) and side.kind == "list":
        if not all(
            isinstance(item, Relation | Interval | Named) for item in side.items
        ):
            return None
        parts = [_real_set(item) for item in side.items]
        return _joined(parts, "cap" if side.conjunction else "cup")
    if isinstance(side, SetExpression):
        return _joined([_real_set(part) for part in side.parts], *side.operators)
    if isinstance(side, Relation):
        return _solution(side)
    if isinstance(side, Text) and side == EMPTY:
        return RealSet(())
    if isinstance(side, Scalar) and side.letters == "":
        return contains_only(side.expression)
    return None


def _real_set_of_point(item: Structure) -> RealSet | None:
    value = expressions.numeric(item.expression) if isinstance(item, Scalar) else None
    return None if value is None else RealSet.interval(value, value, False, False)


def _joined(parts: Sequence[RealSet | None], *operators: str) -> RealSet | None:
    if not parts or any(part is None for part in parts):
        return None
    sets = [part for part in parts if part is not None]
    if len(operators) < len(sets) - 1:
        operators = tuple(operators[:1]) * (len(sets) - 1)
    result = sets[0]
    for operator, other in zip(operators, sets[1:]):
        result = result.joined(other, operator)
    return result


def _interval(
    left: Structure, right: Structure, left_open: bool, right_open: bool
) -> RealSet | None:
    if not (isinstance(left, Scalar) and isinstance(right, Scalar)):
        return None
    a, b = expressions.numeric(left.expression), expressions.numeric(right.expression)
    if a is None or b is None or not a < b:
        return None
    return RealSet.interval(a, b, left_open, right_open)


def _solution(relation: Relation) -> RealSet | None:
    """Values of the variable in `x < 3` or `1 < x \\le 2`."""
    sides = [side for side in relation.sides if isinstance(side, Scalar)]
    variables = [
        i
        for i, side in enumerate(sides)
        if side.letters or len(side.expression.names) == 1
    ]
    if len(variables) != 1 or len(sides) > 3:
        return None
    place = variables[0]
    name = sides[place].expression
    if len(name.names) != 1 or not expressions.is_symbol(name):
        return None
    result = RealSet.reals()
    for i, operator in enumerate(relation.operators):
        if i not in (place, place - 1):
            return None
        bound = expressions.numeric(sides[i + 1 if i == place else i].expression)
        if bound is None:
            return None
        condition = RealSet.condition(
            operator if i == place else _FLIPPED[operator], bound
        )
        result = result.joined(condition, "cap")
    return result


def _related(gold: Relation | None, stated: Relation | None) -> bool:
    """True if relations are the same up to their sides and a constant factor."""
    if gold is None or stated is None or len(gold.sides) != len(stated.sides):
        return False
    pairs = []
    for relation in (gold, stated):
        sides: list[Any] = [
            s.expression for s in relation.sides if isinstance(s, Scalar)
        ]
        if len(sides) != len(relation.sides):
            return False
        operators = list(relation.operators)
        if operators[0] in (">", r"\ge"):
            sides.reverse()
            operators = [_FLIPPED[operator] for operator in reversed(operators)]
        pairs.append((sides, operators))
    (a, operators), (b, others) = pairs
    if operators != others:
        return False
    if len(a) > 2:
        return all(map(expressions.equal, a, b))
    return expressions.proportional(
        expressions.difference(a[0], a[1]),
        expressions.difference(b[0], b[1]),
        positive=operators[0] not in ("=", r"\ne"),
    )
