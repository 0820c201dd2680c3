"""Sets of real numbers as sorted, disjoint intervals, to compare by value."""

from dataclasses import dataclass
from typing import Any

from targetsft_jax.evaluation.graders.expressions import Expression

_TOLERANCE_DIGITS = 35


@dataclass(frozen=True)
class RealSet:
    """A union of intervals (low, low is open, high, high is open), sorted."""

    pieces: tuple[tuple[Any, bool, Any, bool], ...]

    @classmethod
    def interval(
        cls, low: Any, high: Any, low_open: bool, high_open: bool
    ) -> "RealSet":
        """The interval between two numbers."""
        return cls(((low, low_open, high, high_open),))

    @classmethod
    def reals(cls) -> "RealSet":
        """All real numbers."""
        from mpmath import mpf

        return cls.interval(mpf("-inf"), mpf("inf"), True, True)

    @classmethod
    def condition(cls, operator: str, bound: Any) -> "RealSet":
        r"""Numbers x with x < bound, for the operators <, \le, >, \ge, =, \ne."""
        from mpmath import mpf

        low, high = mpf("-inf"), mpf("inf")
        if operator in ("<", r"\le"):
            return cls.interval(low, bound, True, operator == "<")
        if operator in (">", r"\ge"):
            return cls.interval(bound, high, operator == ">", True)
        if operator == "=":
            return cls.interval(bound, bound, False, False)
        return cls(((low, True, bound, True), (bound, True, high, True)))

    def joined(self, other: "RealSet", operator: str) -> "RealSet":
        """Union (`cup`), intersection (`cap`) or difference (`setminus`)."""
        tests = {
            "cup": lambda a, b: a or b,
            "cap": lambda a, b: a and b,
            "setminus": lambda a, b: a and not b,
        }
        return self._combined(other, tests[operator])

    def __eq__(self, other: object) -> bool:
        """Compare endpoints up to the precision of their computation."""
        if not isinstance(other, RealSet):
            return NotImplemented
        a = self._combined(self, lambda x, y: x)
        b = other._combined(other, lambda x, y: x)
        return len(a.pieces) == len(b.pieces) and all(
            p[1] == q[1] and p[3] == q[3] and _close(p[0], q[0]) and _close(p[2], q[2])
            for p, q in zip(a.pieces, b.pieces)
        )

    def __hash__(self) -> int:
        """Number of pieces: endpoints are equal only up to a tolerance."""
        return hash(len(self.pieces))

    def _contains(self, low: Any, high: Any) -> bool:
        """True if the open interval, or the point low = high, is in the set."""
        for left, left_open, right, right_open in self.pieces:
            if low == high or _close(low, high):
                above = low > left and not _close(low, left)
                below = low < right and not _close(low, right)
                if (above or (_close(low, left) and not left_open)) and (
                    below or (_close(low, right) and not right_open)
                ):
                    return True
            elif (left < low or _close(left, low)) and (
                right > high or _close(right, high)
            ):
                return True
        return False

    def _combined(self, other: "RealSet", test: Any) -> "RealSet":
        """Combine by the test on each point and gap between all endpoints."""
        from mpmath import mpf

        bounds: list[Any] = []
        ends = [e for p in (*self.pieces, *other.pieces) for e in (p[0], p[2])]
        for end in sorted([*ends, mpf("-inf"), mpf("inf")]):
            if not bounds or not _close(bounds[-1], end):
                bounds.append(end)
        cells: list[tuple[Any, Any]] = []
        for i, bound in enumerate(bounds):
            cells.append((bound, bound))
            if i + 1 < len(bounds):
                cells.append((bound, bounds[i + 1]))
        pieces: list[list[Any]] = []
        adjacent = False
        for low, high in cells:
            inside = test(self._contains(low, high), other._contains(low, high))
            point = low == high
            if inside and adjacent:
                pieces[-1][2:] = [high, not point]
            elif inside:
                pieces.append([low, not point, high, not point])
            adjacent = inside
        return RealSet(tuple((p[0], p[1], p[2], p[3]) for p in pieces))


def contains_only(expression: Expression) -> RealSet | None:
    r"""All real numbers if the expression is the symbol of that set."""
    return RealSet.reals() if expression.names == {"reals"} else None


def _close(a: Any, b: Any) -> bool:
    import mpmath

    if mpmath.isinf(a) or mpmath.isinf(b):
        return a == b
    with mpmath.workdps(50):
        scale = max(abs(a), abs(b))
        return abs(a - b) <= mpmath.mpf(10) ** -_TOLERANCE_DIGITS * scale
