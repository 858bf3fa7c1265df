"""Numbers that carry a second quantity through a computation: what `bptt` runs on when something is to be known of it.

A kind of number defines +, ·, /, −x and how to make itself `of` another; the rest follows here. Object arrays and
ufuncs do with them what they do with floats.
"""

from typing import Any, Self

import numpy as np

from bptt.arithmetic import Array


class Number:
    """A value with something to it."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]
    value: Any

    @classmethod
    def of(cls, number: Any) -> Self:
        raise NotImplementedError

    def __add__(self, other: Any) -> Self:
        raise NotImplementedError

    def __mul__(self, other: Any) -> Self:
        raise NotImplementedError

    def __truediv__(self, other: Any) -> Self:
        raise NotImplementedError

    def __neg__(self) -> Self:
        raise NotImplementedError

    def __radd__(self, other: Any) -> Self:
        return self + other

    def __rmul__(self, other: Any) -> Self:
        return self * other

    def __sub__(self, other: Any) -> Self:
        return self + -self.of(other)

    def __rsub__(self, other: Any) -> Self:
        return -self + other

    def __rtruediv__(self, other: Any) -> Self:
        return self.of(other) / self

    def __eq__(self, other: object) -> bool:
        return bool(self.value == self.of(other).value)

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < self.of(other).value)

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > self.of(other).value)

    def __le__(self, other: Any) -> bool:
        return bool(self.value <= self.of(other).value)

    def __ge__(self, other: Any) -> bool:
        return bool(self.value >= self.of(other).value)

    def __float__(self) -> float:
        return float(self.value)


class Term(Number):
    """A number, and the largest term or partial sum of the sum of products that it is when written out in full.

    Rounding errors are of the size of that number's ULP, however much of it cancels later. A function passes its
    argument's on, times its derivative.
    """

    __slots__ = ("largest", "value")

    def __init__(self, value: float, largest: float) -> None:
        self.value, self.largest = value, largest

    @classmethod
    def of(cls, number: Any) -> "Term":
        return number if isinstance(number, Term) else cls(float(number), abs(float(number)))

    def __add__(self, other: Any) -> "Term":
        other = Term.of(other)
        total = self.value + other.value
        return Term(total, max(self.largest, other.largest, abs(total)))

    def __mul__(self, other: Any) -> "Term":
        other = Term.of(other)
        return Term(self.value * other.value, self.largest * other.largest)

    def __truediv__(self, other: Any) -> "Term":
        other = Term.of(other)
        quotient = self.value / other.value
        return Term(quotient, max(self.largest, abs(quotient) * other.largest) / abs(other.value))

    def __neg__(self) -> "Term":
        return Term(-self.value, self.largest)

    def exp(self) -> "Term":
        value = float(np.exp(self.value))
        return Term(value, value * max(1.0, self.largest))

    def ln(self) -> "Term":
        value = float(np.log(self.value))
        return Term(value, max(abs(value), self.largest / self.value))


def terms(array: Array) -> Array:
    """An object array of terms from floats."""
    return np.frompyfunc(Term.of, 1, 1)(array.astype(object))


def largest_terms(array: Array) -> Array:
    """What an object array of terms knows, as float64."""
    return np.asarray(np.frompyfunc(lambda number: Term.of(number).largest, 1, 1)(array), np.float64)
