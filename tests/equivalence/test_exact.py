"""Tiers E1 and E2: NumPy BPTT, autograd and the exact result are the same bits. Only `==` is allowed here."""

import hashlib
from itertools import chain

import numpy as np
import pytest
import torch

from bptt.verify.cases import Arrays, Case, Sizes, by_hand, exact_points, piecewise_linear
from bptt.verify.dyadic import bits_needed, dyadic
from tests.backends import BACKENDS
from tests.equivalence.exact_cases import CELLS, DOUBLE, SINGLE, Recipe, case_of, layer_cases, model_cases
from twins import by_autograd

DOUBLE_CASES = [*layer_cases(DOUBLE), *model_cases(DOUBLE)]
SINGLE_CASES = [*layer_cases(SINGLE), *model_cases(SINGLE)]
FORMATS = {DOUBLE: (np.float64, torch.float64), SINGLE: (np.float32, torch.float32)}


def differing(results: Arrays, truth: Arrays) -> list[str]:
    assert results.keys() >= truth.keys() - {"d.x"}
    return [name for name, value in truth.items() if name in results and not (results[name] == value).all()]


@pytest.mark.parametrize("recipe", DOUBLE_CASES, ids=str)
def test_numpy_bptt_and_autograd_give_the_bits_of_the_truth_in_float64(recipe: Recipe) -> None:
    case = case_of(recipe)
    assert not differing(by_hand(case, lambda a: a.astype(np.float64)), case.truth)
    for backend in BACKENDS:
        assert not differing(by_autograd(case, torch.float64, backend), case.truth), backend


@pytest.mark.parametrize("recipe", SINGLE_CASES, ids=str)
def test_numpy_bptt_and_autograd_give_the_bits_of_the_truth_in_float32(recipe: Recipe) -> None:
    case = case_of(recipe)
    results = by_hand(case, lambda a: a.astype(np.float32))
    assert {np.asarray(value).dtype for value in results.values()} == {np.dtype(np.float32)}
    assert not differing(results, case.truth)
    for backend in BACKENDS:
        assert not differing(by_autograd(case, torch.float32, backend), case.truth), backend


@pytest.mark.parametrize("recipe", list(layer_cases(DOUBLE))[::5], ids=str)
def test_strided_cotangents_give_the_same_bits(recipe: Recipe) -> None:
    case = case_of(recipe)
    for backend in BACKENDS:
        assert not differing(by_autograd(case, torch.float64, backend, strided=True), case.truth), backend
    assert not differing(by_hand(case, lambda a: np.repeat(a.astype(np.float64), 2, axis=-1)[..., ::2]), case.truth)


@pytest.mark.parametrize("cell", CELLS)
def test_each_cotangent_alone_gives_the_bits_of_the_truth(cell: str) -> None:
    whole = piecewise_linear(cell, Sizes(T=5, B=2, I=3, H=4), seed=1)
    for kept in whole.cotangents:
        alone = {name: value * (name == kept) for name, value in whole.cotangents.items()}
        case = Case(**{**vars(whole), "cotangents": alone})
        exact = by_hand(case, dyadic)
        assert bits_needed(*exact.values()) <= DOUBLE
        truth = {name: value.astype(np.float64) for name, value in exact.items()}
        assert not differing(by_hand(case, np.copy), truth)
        for backend in BACKENDS:
            assert not differing(by_autograd(case, torch.float64, backend), truth), backend


@pytest.mark.parametrize("cell", CELLS)
def test_each_of_three_layers_reads_through_a_mask_of_its_own(cell: str) -> None:
    case = piecewise_linear(cell, Sizes(T=2, B=2, I=2, H=3, L=3), 0, density=0.3, dropout=True)
    assert (case.inputs["mask.0"] != case.inputs["mask.1"]).any()
    for backend in BACKENDS:
        assert not differing(by_autograd(case, torch.float64, backend), case.truth), backend


def test_nothing_that_is_given_is_changed() -> None:
    for case in map(case_of, DOUBLE_CASES[::7]):
        given = list(chain(case.inputs.values(), case.parameters.values(), case.cotangents.values()))
        before = [hashlib.sha256(array.tobytes()).hexdigest() for array in given]
        first = by_hand(case, lambda a: a)
        second = by_hand(case, lambda a: a)
        assert [hashlib.sha256(array.tobytes()).hexdigest() for array in given] == before
        assert not differing(first, second)


@pytest.mark.parametrize("cell", CELLS)
def test_the_cases_leave_no_weight_untried(cell: str) -> None:
    """Over a few seeds, every entry of every gradient and output is put to the test by a value that is not 0."""
    sizes = Sizes(T=5, B=2, I=3, H=4)
    tried: Arrays = {}
    for seed in range(6):
        for case in (piecewise_linear(cell, sizes, seed, density=0.5), exact_points(cell, sizes, seed)):
            for name, value in case.truth.items():
                tried[name] = tried.get(name, False) | (value != 0)
    untried = {name: np.argwhere(~flags).tolist() for name, flags in tried.items() if not flags.all()}
    assert not untried
