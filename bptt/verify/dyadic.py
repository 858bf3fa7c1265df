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
NO_UNIT = 1 << 20  # the exponent of the unit of zero, which is a multiple of every unit


class Dyadic(Number):
    """One number. Attributes: its value, and `bits`, the widest significand needed on the way to it.

    Raises ArithmeticError as soon as that is more than any format has.
    """

    __slots__ = ("bits", "reach", "unit")

    def __init__(self, value: Fraction, unit: int, reach: Fraction, bits: int) -> None:
        self.value = value
        self.unit = unit  # the finest unit among the terms of the sum that this number is, as an exponent of two
        self.reach = reach  # Σ|term| of that sum
        self.bits = bits
        if bits > WIDEST:
            raise ArithmeticError(f"{bits} bits are more than any floating point format has")

    @classmethod
    def of(cls, number: Any, bits: int = 0) -> "Dyadic":
        """A number that is no sum of others."""
        if isinstance(number, Dyadic):
            return number
        value = Fraction(number)
        unit = unit_of(value)
        return cls(value, unit, abs(value), max(bits, width(abs(value), unit)))

    def __add__(self, other: Any) -> "Dyadic":
        other = Dyadic.of(other)
        unit, reach = min(self.unit, other.unit), self.reach + other.reach
        bits = max(self.bits, other.bits, width(reach, unit))
        return Dyadic(self.value + other.value, unit, reach, bits)

    def __mul__(self, other: Any) -> "Dyadic":
        other = Dyadic.of(other)
        return Dyadic.of(self.value * other.value, max(self.bits, other.bits))

    def __truediv__(self, other: Any) -> "Dyadic":
        """By a power of two; any other quotient raises ArithmeticError, as it is no dyadic number."""
        other = Dyadic.of(other)
        return Dyadic.of(self.value / other.value, max(self.bits, other.bits))

    def __neg__(self) -> "Dyadic":
        return Dyadic(-self.value, self.unit, self.reach, self.bits)

    def exp(self) -> "Dyadic":
        """eˣ at the points where floating point has it exactly; elsewhere it raises ArithmeticError."""
        if self.value + self.reach / 8 < EXP_IS_ZERO:  # whatever 8 bits make of a sum of up to 25 terms: γ₂₅ < 1/8
            return Dyadic.of(0)
        if self.value == 0 or self.value < EXP_IS_ZERO:
            return Dyadic.of(int(self.value == 0), self.bits)
        raise ArithmeticError(f"e^{float(self.value)} is not exact")

    def ln(self) -> "Dyadic":
        if self.value == 1:
            return Dyadic.of(0, self.bits)
        raise ArithmeticError(f"ln {float(self.value)} is not exact")

    def __repr__(self) -> str:
        return f"{self.value} ({self.bits} bits)"


def unit_of(value: Fraction) -> int:
    """The exponent of the largest power of two that divides the value."""
    if value == 0:
        return NO_UNIT
    if value.denominator & (value.denominator - 1):
        raise ArithmeticError(f"{value} is not dyadic")
    return (value.numerator & -value.numerator).bit_length() - value.denominator.bit_length()


def width(reach: Fraction, unit: int) -> int:
    """Bits that hold every multiple of 2**unit up to the reach."""
    return int(reach / Fraction(2) ** unit).bit_length() if reach else 0


def dyadic(array: Array) -> Array:
    """An object array of dyadic numbers, each equal to the float that it is made from."""
    return np.frompyfunc(Dyadic.of, 1, 1)(np.asarray(array, object))


def bits_needed(*arrays: Array) -> int:
    """The widest significand that any of these results needed."""
    return max((Dyadic.of(number).bits for array in arrays for number in array.ravel()), default=0)


def floats(array: Array) -> Array:
    """The same numbers as float64: exact, where 53 bits were enough."""
    return array.astype(np.float64)
