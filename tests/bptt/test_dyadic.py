"""Dyadic numbers against fractions: the same values and comparisons, and the bits that each computation needs."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from bptt.verify.dyadic import Dyadic, bits_needed, dyadic, floats

NUMBERS = [0.0, 1.0, -1.0, 0.5, -0.75, 3.0, 12.0, -(2.0**-40), 5 * 2.0**30]


@pytest.mark.parametrize("operation", ["__add__", "__sub__", "__mul__"])
def test_sums_and_products_are_those_of_fractions(operation: str) -> None:
    for a in NUMBERS:
        for b in NUMBERS:
            result = getattr(Dyadic.of(a), operation)(b)
            assert result.value == getattr(Fraction(a), operation)(Fraction(b))
            assert float(result) == float(result.value) and float(-result) == -float(result.value)


def test_comparisons_are_those_of_fractions() -> None:
    for a in NUMBERS:
        for b in NUMBERS:
            for other in (b, Dyadic.of(b), Fraction(b)):
                x: Any = Dyadic.of(a)
                found = [x == other, x != other, x < other, x <= other, x > other, x >= other]
                assert found == [a == b, a != b, a < b, a <= b, a > b, a >= b]


def test_quotients_are_exact_or_refused() -> None:
    for a, b, quotient in ((3, 4, 0.75), (6, 3, 2), (1, 0.125, 8), (0, 3, 0), (-12, 0.75, -16)):
        assert (Dyadic.of(a) / b).value == quotient
    assert (1 / Dyadic.of(4)).value == 0.25
    for a, b in ((1, 3), (1, 0), (3, 0.75 * 3)):
        with pytest.raises(ArithmeticError):
            Dyadic.of(a) / b
    with pytest.raises(ArithmeticError, match="1/3 is not dyadic"):
        Dyadic.of(Fraction(1, 3))


def test_a_sum_needs_the_bits_of_all_its_terms_whatever_cancels() -> None:
    assert [Dyadic.of(number).bits for number in (0, 1, 3, 4.0, 0.75, -5)] == [0, 1, 2, 1, 2, 3]
    cancelled = Dyadic.of(2.0**20) + 1 - 2.0**20
    assert cancelled.value == 1 and cancelled.bits == 22  # Σ|term| is 2²¹ + 1
    assert (cancelled * 4).bits == 22  # what was needed on the way is still needed
    assert (Dyadic.of(2.0**30) + Dyadic.of(0) * 2.0**-50).bits == 1  # zero is a multiple of every unit
    with pytest.raises(ArithmeticError, match="114 bits are more than any floating point format has"):
        Dyadic.of(2**113) + 1


def test_functions_are_exact_or_refused() -> None:
    assert Dyadic.of(0).exp().value == 1 and Dyadic.of(-800).exp().value == 0 and Dyadic.of(1).ln().value == 0
    for function in (Dyadic.of(1).exp, Dyadic.of(-700).exp, Dyadic.of(2).ln):
        with pytest.raises(ArithmeticError, match="is not exact"):
            function()


def test_arrays_of_them_come_back_as_the_same_floats() -> None:
    numbers = np.array([NUMBERS[:3], NUMBERS[3:6]])
    assert (floats(dyadic(numbers)) == numbers).all() and bits_needed(dyadic(numbers), numbers) == 2
