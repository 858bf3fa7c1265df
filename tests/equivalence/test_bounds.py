"""Tier E3: smooth cells, any input, within bounds that are derived and not fitted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt.cells import CELLS, Activations
from bptt.verify.bounds import bounded, errors
from bptt.verify.cases import Arrays, Sizes, by_hand
from bptt.verify.smooth_cases import random_layers, random_model, random_parameters
from models.cells import CELLS as TORCH_CELLS
from tests.equivalence.by_autograd import by_autograd

ACTIVATIONS = Activations()


def shares_of_one_step(cell: str, p: Arrays, x_part: np.ndarray, state: tuple, d_state: tuple) -> np.ndarray:
    """One step forward and back, both rooms fed the same numbers: |numpy − autograd| over both bounds, every entry."""
    kind = CELLS[cell]
    state, d_state = kind.state(*state), kind.state(*d_state)
    after, saved = kind.step(x_part, state, p, ACTIVATIONS)
    by_numpy = [*after, *flat(kind.step_backward(d_state, saved, p, ACTIVATIONS))]

    exact = {name: bounded(value) for name, value in p.items()}
    after, saved = kind.step(bounded(x_part), kind.state(*map(bounded, state)), exact, ACTIVATIONS)
    bounds = [*after, *flat(kind.step_backward(kind.state(*map(bounded, d_state)), saved, exact, ACTIVATIONS))]

    module = TORCH_CELLS[cell](1, x_part.shape[-1] // len(kind.gates)).double()
    for name, parameter in module.named_parameters():
        parameter.data = torch.tensor(p[name])
    leaves = [torch.tensor(array, requires_grad=True) for array in (x_part, *state)]
    after = module.step(leaves[0], TORCH_CELLS[cell].state(*leaves[1:]))
    torch.autograd.backward(list(after), [torch.tensor(array) for array in d_state])
    by_torch = [part.detach() for part in after] + [leaf.grad for leaf in leaves]

    pairs = zip(by_numpy, by_torch, bounds, strict=True)
    return np.concatenate([(np.abs(a - b.numpy()) / (2 * errors(e))).ravel() for a, b, e in pairs])


def flat(results: tuple) -> list[np.ndarray]:
    d_x_part, _, d_prev = results
    return [d_x_part, *d_prev]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 3), st.floats(-3, 3))
@pytest.mark.parametrize("cell", CELLS)
def test_one_step_of_each_room_is_within_its_bound(cell: str, seed: int, H: int, B: int, scale: float) -> None:
    """Weights, states and gradients from a thousandth to a thousand: linear, usual and saturated gates."""
    rng, parts = np.random.default_rng(seed), len(CELLS[cell].state._fields)
    p = {name.split(".")[-1]: value * 10**scale for name, value in random_parameters(rng, cell, Sizes(H=H)).items()}
    state, d_state = rng.normal(size=(2, parts, B, H)) * 10**scale
    x_part = rng.normal(size=(B, len(CELLS[cell].gates) * H)) * 10**scale
    assert shares_of_one_step(cell, p, x_part, tuple(state), tuple(d_state)).max() <= 1


@pytest.mark.parametrize("T", [3, 10, 50, 200])
def test_the_bound_of_a_step_means_something_however_long_the_sequence(T: int) -> None:
    """The median share of the bound that is used stays above 1e-3: the bound would not hide an error of 1000 of its
    own roundings. Two in five entries agree to the bit and count as 0."""
    shares = []
    for cell, kind in CELLS.items():
        case = random_layers(cell, Sizes(T=T, B=2, I=3, H=8))
        p, rng = case.network.parameters_of(0, case.parameters), np.random.default_rng(1)
        state = kind.state(*(case.inputs[f"initial.{part}"][0] for part in kind.state._fields))
        for x in case.inputs["x"]:
            x_part = x @ p["weight_ih"].T + p["bias_ih"]
            d_state = rng.normal(size=(len(state), *state.h.shape))
            shares.append(shares_of_one_step(cell, p, x_part, tuple(state), tuple(d_state)))
            state, _ = kind.step(x_part, state, p, ACTIVATIONS)
    used = np.concatenate(shares)
    print(f"T={T}: median share of the bound {np.median(used):.1e}, largest {used.max():.2f}")
    assert used.max() <= 1 and np.median(used) > 1e-3


@pytest.mark.parametrize("loss", ["every", "last"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_short_whole_model_is_within_the_bound_that_its_own_code_gives(cell: str, loss: str) -> None:
    """The plain running bound over the whole computation; it grows with T far faster than errors do, so T is small."""
    for seed in range(4):
        case = random_model(cell, Sizes(T=4, B=2, I=3, H=4, L=2, V=5), seed, loss)
        ours, theirs, bounds = by_hand(case, np.copy), by_autograd(case, torch.float64), by_hand(case, bounded)
        for name, result in theirs.items():
            assert (np.abs(ours[name] - result) <= 2 * errors(bounds[name])).all(), name


def test_a_term_that_is_missing_is_far_outside() -> None:
    """What a bound of 1e-14 or so says of a gradient that lacks its smallest part."""
    case = random_layers("lstm", Sizes(T=4, B=2, I=3, H=4))
    bounds, true = by_hand(case, bounded), by_hand(case, np.copy)
    for name, bound in bounds.items():
        assert errors(bound).max() < 1e-9 * np.abs(true[name]).max(), name
