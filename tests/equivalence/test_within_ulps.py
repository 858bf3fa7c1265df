"""Smooth cells, any input, float64: every gradient of the whole model within a few ULPs of the largest term it sums."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from bptt.verify.cases import Case, Sizes, by_hand
from tests.equivalence.by_autograd import by_autograd
from tests.equivalence.exact_cases import CELLS
from tests.equivalence.smooth_cases import random_model

ULPS = 8  # what the specification of the project allows


@dataclass(frozen=True)
class Term:
    """A number, and the largest term or partial sum of the sum of products that it is when written out in full.

    Rounding errors are of the size of that number's ULP, however much of it cancels later. A function passes its
    argument's on, times its derivative.
    """

    value: float
    largest: float

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

    def __sub__(self, other: Any) -> "Term":
        return self + -Term.of(other)

    def __rsub__(self, other: Any) -> "Term":
        return -self + other

    def __rtruediv__(self, other: Any) -> "Term":
        return Term.of(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> "Term":
        value = float(np.exp(self.value))
        return Term(value, value * max(1.0, self.largest))

    def ln(self) -> "Term":
        value = float(np.log(self.value))
        return Term(value, max(abs(value), self.largest / self.value))

    def __ge__(self, other: Any) -> bool:
        return self.value >= Term.of(other).value

    def __lt__(self, other: Any) -> bool:
        return self.value < Term.of(other).value

    def __gt__(self, other: Any) -> bool:
        return self.value > Term.of(other).value

    def __le__(self, other: Any) -> bool:
        return self.value <= Term.of(other).value


def terms(array: np.ndarray) -> np.ndarray:
    return np.frompyfunc(Term.of, 1, 1)(array.astype(object))


def largest(array: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(lambda number: Term.of(number).largest, 1, 1)(array), np.float64)


SIZES = [Sizes(T=6, B=5, I=3, H=4, V=7), Sizes(T=6, B=3, I=2, H=4, L=2, V=5), Sizes(T=1, B=1, I=1, H=1, V=2)]


def ulps_apart(case: Case) -> dict[str, float]:
    ours, theirs, written_out = by_hand(case, np.copy), by_autograd(case, torch.float64), by_hand(case, terms)
    return {
        name: float((np.abs(ours[name] - theirs[name]) / np.spacing(largest(written_out[name]))).max())
        for name in theirs
    }


@pytest.mark.parametrize("one_hot", [False, True], ids=["embedding", "onehot"])
@pytest.mark.parametrize("loss", ["every", "last"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_result_is_within_a_few_ulps_of_its_largest_term(
    cell: str, sizes: Sizes, loss: str, one_hot: bool
) -> None:
    for seed in range(3):
        apart = ulps_apart(random_model(cell, sizes, seed, loss, one_hot))
        assert max(apart.values()) <= ULPS, apart
