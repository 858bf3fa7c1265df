"""Exact numbers that also certify that floating point would have been exact.

A dyadic rational is m · 2ᵉ with integers m and e, which is what floating point numbers are. `Dyadic` computes with them
without rounding, and keeps for each result how wide a significand its computation needs: where that is at most 53 bits
for every result, float64 gives the same numbers, in whatever order a sum is taken and with or without fused
multiply-add. For float32 the same holds at 24 bits.

A sum is exact in every order if each partial sum is: all of them are multiples of the finest unit among the terms and
no larger than Σ|term|, so log₂(Σ|term| / unit) bits suffice.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from bptt.arithmetic import Array
from bptt.verify.numbers import Number

EXP_IS_ZERO = -746  # below it eˣ rounds to zero even among float64's subnormals
WIDEST = 113  # bits of the widest format in use; a number that needs more is not followed any further
NO_UNIT = 1 << 20  # the exponent of the unit of zero, which is a multiple of every unit: above all others


class Dyadic(Number):
    """One number, count · 2**unit. Attributes: its value, and `bits`, the widest significand needed on the way to it.

    Raises ArithmeticError as soon as that is more than any format has.
    """

    __slots__ = ("bits", "count", "size", "unit")

    def __init__(self, count: int, unit: int, size: int, bits: int) -> None:
        self.count = count
        self.unit = unit  # the finest unit among the terms of the sum that this number is, as an exponent of two
        self.size = size  # Σ|term| of that sum, in units
        self.bits = bits
        if bits > WIDEST:
            raise ArithmeticError(f"{bits} bits are more than any floating point format has")

    @property
    def value(self) -> Fraction:
        return scaled(self.count, self.unit)

    @classmethod
    def of(cls, number: Any, bits: int = 0) -> "Dyadic":
        """A number that is no sum of others."""
        if isinstance(number, Dyadic):
            return number
        numerator, denominator = (number if isinstance(number, int | float) else Fraction(number)).as_integer_ratio()
        if denominator & (denominator - 1):
            raise ArithmeticError(f"{Fraction(number)} is not dyadic")
        return cls.term(numerator, 1 - denominator.bit_length(), bits)

    @classmethod
    def term(cls, count: int, unit: int, bits: int) -> "Dyadic":
        """count · 2**unit as a number that is no sum of others: its unit is the largest that divides it."""
        if count == 0:
            return cls(0, NO_UNIT, 0, bits)
        zeros = (count & -count).bit_length() - 1
        size = abs(count) >> zeros
        return cls(count >> zeros, unit + zeros, size, max(bits, size.bit_length()))

    def __add__(self, other: Any) -> "Dyadic":
        other = Dyadic.of(other)
        unit = min(self.unit, other.unit)
        ours, theirs = self.unit - unit, other.unit - unit
        size = (self.size << ours) + (other.size << theirs)
        bits = max(self.bits, other.bits, size.bit_length())
        return Dyadic((self.count << ours) + (other.count << theirs), unit, size, bits)

    def __mul__(self, other: Any) -> "Dyadic":
        other = Dyadic.of(other)
        return Dyadic.term(self.count * other.count, self.unit + other.unit, max(self.bits, other.bits))

    def __truediv__(self, other: Any) -> "Dyadic":
        """Where the quotient is a dyadic number, as by a power of two; elsewhere it raises ArithmeticError."""
        other = Dyadic.of(other)
        divisor = Dyadic.term(other.count, other.unit, 0)
        count, remainder = divmod(self.count, divisor.count)
        if remainder:
            raise ArithmeticError(f"{self.value / other.value} is not dyadic")
        return Dyadic.term(count, self.unit - divisor.unit, max(self.bits, other.bits))

    def __neg__(self) -> "Dyadic":
        return Dyadic(-self.count, self.unit, self.size, self.bits)

    def difference(self, other: Any) -> int:
        """A number with the sign of self − other."""
        other = Dyadic.of(other)
        unit = min(self.unit, other.unit)
        return (self.count << (self.unit - unit)) - (other.count << (other.unit - unit))

    def __eq__(self, other: object) -> bool:
        return self.difference(other) == 0

    def __lt__(self, other: Any) -> bool:
        return self.difference(other) < 0

    def __gt__(self, other: Any) -> bool:
        return self.difference(other) > 0

    def __le__(self, other: Any) -> bool:
        return self.difference(other) <= 0

    def __ge__(self, other: Any) -> bool:
        return self.difference(other) >= 0

    def exp(self) -> "Dyadic":
        """eˣ at the points where floating point has it exactly; elsewhere it raises ArithmeticError."""
        if self.count == 0:
            return Dyadic.of(1, self.bits)
        # Even if all 8 bits of a sum of up to 25 terms go wrong, it is below: γ₂₅ < 1/8.
        if scaled(8 * self.count + self.size, self.unit) < 8 * EXP_IS_ZERO:
            return Dyadic.of(0)
        if self.value < EXP_IS_ZERO:
            return Dyadic.of(0, self.bits)
        raise ArithmeticError(f"e^{float(self.value)} is not exact")

    def ln(self) -> "Dyadic":
        if self == 1:
            return Dyadic.of(0, self.bits)
        raise ArithmeticError(f"ln {float(self.value)} is not exact")

    def __repr__(self) -> str:
        return f"{self.value} ({self.bits} bits)"


def scaled(count: int, unit: int) -> Fraction:
    """count · 2**unit."""
    if count == 0:
        return Fraction(0)
    return Fraction(count << unit) if unit >= 0 else Fraction(count, 1 << -unit)


def dyadic(array: Array) -> Array:
    """An object array of dyadic numbers, each equal to the float that it is made from."""
    return np.frompyfunc(Dyadic.of, 1, 1)(np.asarray(array, object))


def bits_needed(*arrays: Array) -> int:
    """The widest significand that any of these results needed."""
    return max((Dyadic.of(number).bits for array in arrays for number in array.ravel()), default=0)


def floats(array: Array) -> Array:
    """The same numbers as float64: exact, where 53 bits were enough."""
    return array.astype(np.float64)
