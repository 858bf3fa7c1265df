"""How far each implementation is from the truth, in ULPs of the largest term that a gradient sums."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.verify.bounds import FORMATS
from bptt.verify.cases import Arrays, Case, Sizes, by_hand
from bptt.verify.numbers import largest_terms, terms
from bptt.verify.oracles import central_differences
from bptt.verify.smooth_cases import random_layers
from bptt.verify.trials import on_grid

SIZES = Sizes(T=5, B=2, I=3, H=4)


class Distance(NamedTuple):
    """Of all entries of all gradients, in ULPs of the format: the one in the middle and the worst."""

    cell: str
    dtype: str
    who: str
    median: float
    worst: float


def distances(rooms: dict[str, Callable[[Case, str], Arrays]]) -> Iterator[Distance]:
    """By hand in NumPy where it has the format, and in each room: a function of a case and a format's name."""
    for cell in CELLS:
        case = on_grid(random_layers(cell, SIZES), 1.0)
        truth = central_differences(case)
        largest = {name: largest_terms(value) for name, value in by_hand(case, terms).items()}
        for dtype in FORMATS:
            if dtype != "bfloat16":
                results = by_hand(case, partial(np.asarray, dtype=dtype))
                yield Distance(cell, dtype, "NumPy by hand", *ulps(results, truth, largest, dtype))
            for who, results_of in rooms.items():
                yield Distance(cell, dtype, who, *ulps(results_of(case, dtype), truth, largest, dtype))


def ulps(results: Arrays, truth: Arrays, largest: Arrays, dtype: str) -> tuple[float, float]:
    apart = np.concatenate([(np.abs(results[n] - truth[n]) / ulp(largest[n], dtype)).ravel() for n in truth])
    return float(np.median(apart)), float(apart.max())


def ulp(array: Array, dtype: str) -> Array:
    """The distance from these numbers to the next of the format: 2ᵉ⁺¹ u."""
    return np.asarray(2.0 ** np.floor(np.log2(array)) * 2 * FORMATS[dtype].unit)
