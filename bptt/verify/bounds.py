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

Taken over many steps, such a bound takes absolute values at each of them, and grows far faster than errors do. So a
number may also carry a radius r: it is off by a deviation of at most r, whose first-order effect is accounted for
elsewhere (by the Jacobians, in `sequences.py`). Then e is what comes on top: the rounding errors, and Taylor's
remainder. With D = r + e:

* a product leaves D_x D_y − e_x e_y more; its radius is |x̂| r_y + |ŷ| r_x;
* a quotient q = x/y leaves (D_x + |q| D_y) / |ŷ| · D_y / (|ŷ| − D_y); its radius is (r_x + |q| r_y) / |ŷ|;
* exp leaves v (e^D − 1 − r), ln leaves −ln(1 − D/x̂) − r/x̂, with radii v r and r/x̂;
* tanh leaves e + ½ · 4/(3√3) · r², as |tanh″| ≤ 4/(3√3); its radius is (1 − tanh²) r.
"""

import math
from typing import Any, ClassVar

import numpy as np

from bptt.arithmetic import Array
from bptt.verify.numbers import Number

FUNCTION_ULPS = 2  # glibc, NumPy's SIMD loops and Sleef (which torch uses) each state less, 1 to 1.5
OVERFLOWS = 700.0  # e to that power is nearly the largest number
STEEPEST = 4 / (3 * math.sqrt(3))  # max |tanh″|


class Bounded(Number):
    """A value, a radius that it may deviate by, and a bound on how far it is from the truth beyond that."""

    __slots__ = ("inherited", "radius", "reach", "terms", "value")
    unit: ClassVar[float] = 2.0**-53
    smallest: ClassVar[float] = 2.0**-1022  # the smallest normal number
    function_floor: ClassVar[float] = 0.0  # functions are only as good as if their result were at least this

    def __init__(
        self, value: float, inherited: float = 0.0, radius: float = 0.0, terms: int = 1, reach: float | None = None
    ) -> None:
        self.value = value
        self.inherited = inherited  # Σ eᵢ
        self.radius = radius
        self.terms = terms  # n
        self.reach = abs(value) + inherited + radius if reach is None else reach  # Σ (|t̂ᵢ| + Dᵢ)

    @classmethod
    def of(cls, number: Any) -> "Bounded":
        return number if isinstance(number, Bounded) else cls(float(number))

    @property
    def error(self) -> float:
        operations = (self.terms - 1) * self.unit
        return self.inherited + operations / (1 - operations) * self.reach if operations < 1 else math.inf

    @property
    def distance(self) -> float:
        """What the truth can be away at most."""
        return self.radius + self.error

    def __add__(self, other: Any) -> "Bounded":
        other = self.of(other)
        inherited, radius = self.inherited + other.inherited, self.radius + other.radius
        return type(self)(
            self.value + other.value, inherited, radius, self.terms + other.terms, self.reach + other.reach
        )

    def __mul__(self, other: Any) -> "Bounded":
        other = self.of(other)
        x, y, e_x, e_y = abs(self.value), abs(other.value), self.error, other.error
        D_x, D_y = self.radius + e_x, other.radius + e_y
        carried = x * e_y + y * e_x + D_x * D_y
        radius = x * other.radius + y * self.radius
        rounded = self.unit * (x + D_x) * (y + D_y) + self.smallest
        return type(self)(self.value * other.value, carried + rounded, radius)

    def __truediv__(self, other: Any) -> "Bounded":
        other = self.of(other)
        quotient, y, e_x, e_y = self.value / other.value, abs(other.value), self.error, other.error
        q, D_x, D_y = abs(quotient), self.radius + e_x, other.radius + e_y
        if y - D_y <= 0:
            return type(self)(quotient, math.inf)
        carried = (e_x + q * e_y) / y + (D_x + q * D_y) / y * D_y / (y - D_y)
        radius = (self.radius + q * other.radius) / y
        rounded = self.unit * (q + radius + carried) + self.smallest
        return type(self)(quotient, carried + rounded, radius)

    def __neg__(self) -> "Bounded":
        return type(self)(-self.value, self.inherited, self.radius, self.terms, self.reach)

    def function(self, value: float, carried: float, radius: float) -> "Bounded":
        """A library's function of this number, that may itself be off by so many ULPs."""
        most = max(abs(value) + radius + carried, self.function_floor)
        return type(self)(value, carried + 2 * self.unit * FUNCTION_ULPS * most + self.smallest, radius)

    def exp(self) -> "Bounded":
        value = math.exp(self.value)
        if self.distance > OVERFLOWS:
            return type(self)(value, math.inf)
        return self.function(value, value * (math.expm1(self.distance) - self.radius), value * self.radius)

    def ln(self) -> "Bounded":
        value, relative = math.log(self.value), self.distance / self.value
        if relative >= 1:
            return type(self)(value, math.inf)
        radius = self.radius / self.value
        return self.function(value, -math.log1p(-relative) - radius, radius)

    def tanh(self) -> "Bounded":
        value = math.tanh(self.value)
        carried = self.error + STEEPEST / 2 * self.radius**2
        return self.function(value, carried, (1 - value * value) * self.radius)


class Float32(Bounded):
    unit, smallest = 2.0**-24, 2.0**-126


class BFloat16(Bounded):
    unit, smallest = 2.0**-8, 2.0**-126


FORMATS: dict[str, type[Bounded]] = {"float64": Bounded, "float32": Float32, "bfloat16": BFloat16}


def bounded(array: Array, kind: type[Bounded] = Bounded, errors: Any = 0.0, radii: Any = 0.0) -> Array:
    """An object array of numbers, exact as given unless an error or a radius comes with them."""
    return np.frompyfunc(lambda v, e, r: kind(float(v), float(e), float(r)), 3, 1)(array, errors, radii)


def errors(array: Array) -> Array:
    """The bounds in an object array, as float64; infinite where there is none."""
    found = np.asarray(np.frompyfunc(lambda number: Bounded.of(number).error, 1, 1)(array), np.float64)
    return infinite_where_none(found)


def infinite_where_none(bounds: Array) -> Array:
    """∞ · 0, where a bound has grown beyond all numbers, is no number; the bound is infinite still."""
    return np.where(np.isnan(bounds), np.inf, bounds)
