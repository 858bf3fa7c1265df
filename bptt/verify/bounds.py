"""How far rounding can take a result from the truth: running error analysis, with no constant that is fitted.

`Bounded` numbers go through the very code that is judged, and carry with each value v̂ a bound e ≥ |v̂ − v| on its
distance from the exact result of the same expression. With unit roundoff u (2⁻⁵³ in float64), after Higham, *Accuracy
and Stability of Numerical Algorithms* (2002), chapters 2 to 4, each rounded operation is exact up to a factor 1 + δ,
|δ| ≤ u:

* a sum of n terms t̂ᵢ, in any order and with or without fused multiply-add: e = Σ eᵢ + γ_{n−1} Σ (|t̂ᵢ| + eᵢ), where
  γ_k = k u / (1 − k u). A sum is therefore kept as n, Σ eᵢ and Σ (|t̂ᵢ| + eᵢ) until something else is done with it.
* a product: e = |x̂| e_y + |ŷ| e_x + e_x e_y + u (|x̂| + e_x)(|ŷ| + e_y).
* a quotient: x/y differs from x̂/ŷ by at most (e_x + |x̂/ŷ| e_y) / (|ŷ| − e_y), and rounding adds u of what may come out.
* exp, ln and tanh: the libraries' own error, `FUNCTION_ULPS` ULPs of the result (an ULP is at most 2u of it), and what
  the argument's error becomes: e^e_x − 1 of the result for exp, −ln(1 − e_x/x̂) for ln, and at most e_x for tanh, whose
  slope is at most 1.

Products, quotients and exp may also underflow. What is below the smallest normal number may be flushed to zero, and
1 / (1 + e⁻ᵃ), which is torch's σ, does so where e⁻ᵃ overflows: that number is added to each of these bounds.

A derivative that one room writes as 1 − y² and the other as (1 − y)(1 + y) is another expression of the same truth:
each room stays within its own bound of it, so the two stay within the sum of both bounds of each other.
"""

import math
from typing import Any

import numpy as np

from bptt.arithmetic import Array
from bptt.verify.numbers import Number

UNIT = 2.0**-53
SMALLEST = 2.0**-1022  # the smallest normal number
FUNCTION_ULPS = 2  # glibc, NumPy's SIMD loops and Sleef (which torch uses) each state less, 1 to 1.5


def gamma(operations: int) -> float:
    return operations * UNIT / (1 - operations * UNIT)


class Bounded(Number):
    """A float64 value and a bound on its distance from the truth."""

    __slots__ = ("inherited", "reach", "terms")

    def __init__(self, value: float, inherited: float, terms: int = 1, reach: float | None = None) -> None:
        self.value = value
        self.inherited = inherited  # Σ eᵢ
        self.terms = terms  # n
        self.reach = abs(value) + inherited if reach is None else reach  # Σ (|t̂ᵢ| + eᵢ)

    @classmethod
    def of(cls, number: Any) -> "Bounded":
        return number if isinstance(number, Bounded) else cls(float(number), 0.0)

    @property
    def error(self) -> float:
        return self.inherited + gamma(self.terms - 1) * self.reach

    @property
    def most(self) -> float:
        """What the truth can be at most, in size."""
        return abs(self.value) + self.error

    def __add__(self, other: Any) -> "Bounded":
        other = Bounded.of(other)
        inherited, reach = self.inherited + other.inherited, self.reach + other.reach
        return Bounded(self.value + other.value, inherited, self.terms + other.terms, reach)

    def __mul__(self, other: Any) -> "Bounded":
        other = Bounded.of(other)
        x, y = self.error, other.error
        carried = abs(self.value) * y + abs(other.value) * x + x * y
        return Bounded(self.value * other.value, carried + UNIT * self.most * other.most + SMALLEST)

    def __truediv__(self, other: Any) -> "Bounded":
        other = Bounded.of(other)
        quotient = self.value / other.value
        carried = (self.error + abs(quotient) * other.error) / (abs(other.value) - other.error)
        return Bounded(quotient, carried + UNIT * (abs(quotient) + carried) + SMALLEST)

    def __neg__(self) -> "Bounded":
        return Bounded(-self.value, self.inherited, self.terms, self.reach)

    def exp(self) -> "Bounded":
        value, growth = math.exp(self.value), math.expm1(self.error)
        return Bounded(value, value * (growth + 2 * UNIT * FUNCTION_ULPS * (1 + growth)) + SMALLEST)

    def ln(self) -> "Bounded":
        value = math.log(self.value)
        carried = -math.log1p(-self.error / self.value)
        return Bounded(value, carried + 2 * UNIT * FUNCTION_ULPS * (abs(value) + carried))

    def tanh(self) -> "Bounded":
        value = math.tanh(self.value)
        return Bounded(value, self.error + 2 * UNIT * FUNCTION_ULPS * (abs(value) + self.error))


def bounded(array: Array) -> Array:
    """An object array of numbers that are exact as given."""
    return np.frompyfunc(Bounded.of, 1, 1)(np.asarray(array, object))


def errors(array: Array) -> Array:
    """The bounds in an object array, as float64."""
    return np.asarray(np.frompyfunc(lambda number: Bounded.of(number).error, 1, 1)(array), np.float64)
