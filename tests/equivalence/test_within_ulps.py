"""Smooth cells, any input, float64: every gradient of the whole model within a few ULPs of the largest term it sums."""

from typing import Any

import numpy as np
import pytest
import torch

from bptt.verify.cases import Case, Sizes, by_hand
from bptt.verify.numbers import largest_terms, terms
from bptt.verify.smooth_cases import random_classifier, random_layers, random_model
from tests.backends import BACKENDS
from tests.equivalence.exact_cases import CELLS
from twins import by_autograd

ULPS = 8  # what the specification of the project allows


SIZES = [Sizes(T=6, B=5, I=3, H=4, V=7), Sizes(T=6, B=3, I=2, H=4, L=2, V=5), Sizes(T=1, B=1, I=1, H=1, V=2)]


def ulps_apart(case: Case) -> dict[str, float]:
    """How far each result of each backend is from that of NumPy."""
    by_numpy, written_out = by_hand(case, np.copy), by_hand(case, terms)
    ulp = {name: np.spacing(largest_terms(of)) for name, of in written_out.items()}
    return {
        f"{backend}: {name}": float((np.abs(by_numpy[name] - result) / ulp[name]).max())
        for backend in BACKENDS
        for name, result in by_autograd(case, torch.float64, backend).items()
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


BOTH_WAYS = Sizes(T=5, B=3, I=3, H=4, L=2, D=2)
OPTIONS = [{"dropout": True}, {"attention_span": 3}, {"attention_span": 9, "dropout": True}, {"tied": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_models_with_options_are_as_near(cell: str, options: dict[str, Any]) -> None:
    for seed in range(3):
        apart = ulps_apart(random_model(cell, Sizes(T=6, B=3, I=4, H=4, L=2, V=5), seed, **options))
        assert max(apart.values()) <= ULPS, apart


@pytest.mark.parametrize("cell", CELLS)
def test_layers_in_two_directions_on_uneven_sequences_are_as_near(cell: str) -> None:
    for seed in range(3):
        apart = ulps_apart(random_layers(cell, BOTH_WAYS, seed, ragged=True, dropout=True))
        assert max(apart.values()) <= ULPS, apart


@pytest.mark.parametrize("pooling", ["additive", "dot"])
@pytest.mark.parametrize("cell", CELLS)
def test_classifiers_are_as_near(cell: str, pooling: str) -> None:
    for seed in range(3):
        apart = ulps_apart(random_classifier(cell, BOTH_WAYS, seed, pooling, dropout=True))
        assert max(apart.values()) <= ULPS, apart
