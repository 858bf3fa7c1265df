"""Tier E4: NumPy and autograd against the true gradient, which three independent methods compute."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bptt.verify.cases import Arrays, Case, Sizes, by_hand
from bptt.verify.numbers import largest_terms, terms
from bptt.verify.oracles import central_differences, complex_step, real_time_recurrent_learning
from bptt.verify.smooth_cases import random_classifier, random_layers, random_model
from tests.backends import BACKENDS
from tests.equivalence.exact_cases import CELLS
from tests.equivalence.test_within_ulps import ULPS
from twins import by_autograd

LAYERS, MODEL = Sizes(T=4, B=2, I=3, H=2, L=2), Sizes(T=3, B=2, I=2, H=2, V=4)
BOTH_WAYS = Sizes(T=3, B=2, I=2, H=2, L=2, V=4, D=2)


def ulps_from(truth: Arrays, results: Arrays, case: Case) -> float:
    scale = {name: np.spacing(largest_terms(array)) for name, array in by_hand(case, terms).items()}
    assert truth.keys() <= scale.keys() | {"d.x"}
    return max(float((np.abs(results[name] - truth[name]) / scale[name]).max()) for name in truth)


KINDS: dict[str, Callable[[str], Case]] = {
    "layers": lambda cell: random_layers(cell, LAYERS),
    "both ways": lambda cell: random_layers(cell, BOTH_WAYS, ragged=True, dropout=True),
    "model": lambda cell: random_model(cell, MODEL),
    "attention": lambda cell: random_model(cell, MODEL, tied=True, attention_span=3),
    "classifier": lambda cell: random_classifier(cell, BOTH_WAYS),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_and_autograd_are_within_a_few_ulps_of_the_truth(cell: str, kind: str) -> None:
    case = KINDS[kind](cell)
    truth = central_differences(case)
    assert all(gradient.any() for gradient in truth.values())
    assert ulps_from(truth, by_hand(case, np.copy), case) <= ULPS
    for backend in BACKENDS:
        assert ulps_from(truth, by_autograd(case, torch.float64, backend), case) <= ULPS, backend


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_complex_step_finds_the_same(cell: str, kind: str) -> None:
    case = KINDS[kind](cell)
    assert ulps_from(complex_step(case), by_hand(case, np.copy), case) <= ULPS


@pytest.mark.parametrize("cell", CELLS)
def test_learning_in_real_time_gives_the_gradient_of_going_back(cell: str) -> None:
    case = random_layers(cell, Sizes(T=6, B=2, I=3, H=4))
    assert ulps_from(real_time_recurrent_learning(case), by_hand(case, np.copy), case) <= ULPS
