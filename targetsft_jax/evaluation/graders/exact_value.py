"""Exact rational value of an expression, within a limit on the size of integers."""

from fractions import Fraction
from math import comb, factorial
from typing import Any

from targetsft_jax.evaluation.graders.limits import BITS


class ExactValue:
    """Exact value of a tree, and the bits that its evaluation needs."""

    def __init__(self) -> None:
        self.too_big = False
        self.nodes = 0

    def value(self, node: Any) -> Fraction | None:
        """The rational value of a node; None if it is not rational or too big."""
        from sympy import Add, Integer, Mul, Pow, Rational
        from sympy.functions.combinatorial.factorials import binomial
        from sympy.functions.combinatorial.factorials import (
            factorial as sympy_factorial,
        )

        self.nodes += 1
        if self.nodes > 2000:
            self.too_big = True
            return None
        if isinstance(node, Integer | Rational):
            return Fraction(int(node.p), int(node.q))
        values = [self.value(argument) for argument in node.args]
        if self.too_big:
            return None
        if isinstance(node, Pow):
            return self._power(node, values)
        if any(value is None for value in values) or not values:
            return None
        known = [value for value in values if value is not None]
        if isinstance(node, Add):
            return self._bounded(sum(known, Fraction(0)))
        if isinstance(node, Mul):
            product = Fraction(1)
            for value in known:
                product = self._bounded(product * value) or Fraction(0)
            return product
        if isinstance(node, sympy_factorial):
            return self._factorial(known[0])
        if isinstance(node, binomial):
            return self._binomial(known)
        if type(node).__name__ == "UnevaluatedExpr":
            return known[0]
        return None

    def _power(self, node: Any, values: list[Fraction | None]) -> Fraction | None:
        base, exponent = values
        if exponent is None or exponent.denominator != 1:
            if exponent is not None and abs(exponent) > BITS:
                self.too_big = True
            return None
        power = exponent.numerator
        if base is None:
            # (x+1)^n is a number at every point, but not for n of any size.
            self.too_big |= abs(power) > 10_000
            return None
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(power) * bits > BITS and abs(base) not in (0, 1):
            self.too_big = True
            return None
        if base == 0:
            return None if power <= 0 else Fraction(0)
        return base**power

    def _factorial(self, value: Fraction) -> Fraction | None:
        if value.denominator != 1 or value < 0:
            return None
        if value > 3000:
            self.too_big = True
            return None
        return Fraction(factorial(value.numerator))

    def _binomial(self, values: list[Fraction]) -> Fraction | None:
        if any(value.denominator != 1 or value < 0 for value in values):
            return None
        if max(values) > 3000:
            self.too_big = True
            return None
        return Fraction(comb(values[0].numerator, values[1].numerator))

    def _bounded(self, value: Fraction) -> Fraction | None:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > 4 * BITS:
            self.too_big = True
            return None
        return value
