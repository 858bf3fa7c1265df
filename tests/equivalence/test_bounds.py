"""Tier E3: smooth cells, any input, within bounds that are derived and not fitted."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt.cells import CELLS, Activations
from bptt.verify.bounds import FORMATS, Bounded, bounded, errors
from bptt.verify.cases import Arrays, Case, Sizes, by_hand
from bptt.verify.oracles import DIGITS
from bptt.verify.sequences import Sources, jacobians, member_of, sequence_bounds
from bptt.verify.smooth_cases import random_classifier, random_layers, random_model, random_parameters
from models.cells import CELLS as TORCH_CELLS
from tests.backends import BACKENDS
from twins import by_autograd

ACTIVATIONS = Activations()


def one_step(cell: str, number: Callable[[np.ndarray], np.ndarray], p: Arrays, *arrays: Any) -> list[np.ndarray]:
    """The results of one step forward and backward in NumPy, with numbers of some kind."""
    kind = CELLS[cell]
    x_part, state, d_state = arrays
    p = {name: number(value) for name, value in p.items()}
    after, saved = kind.step(number(x_part), kind.state(*map(number, state)), p, ACTIVATIONS)
    d_x_part, _, d_prev = kind.step_backward(kind.state(*map(number, d_state)), saved, p, ACTIVATIONS)
    return [*after, d_x_part, *d_prev]


def one_step_under_autograd(cell: str, p: Arrays, x_part: np.ndarray, state: tuple, d_state: tuple) -> list[np.ndarray]:
    module = TORCH_CELLS[cell](1, x_part.shape[-1] // len(CELLS[cell].gates)).double()
    for name, parameter in module.named_parameters():
        parameter.data = torch.tensor(p[name])
    leaves = [torch.tensor(array, requires_grad=True) for array in (x_part, *state)]
    after = module.step(leaves[0], TORCH_CELLS[cell].state(*leaves[1:]))
    torch.autograd.backward(list(after), [torch.tensor(array) for array in d_state])
    return [part.detach().numpy() for part in after] + [leaf.grad.numpy() for leaf in leaves]


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 3), st.floats(-3, 3))
@pytest.mark.parametrize("cell", CELLS)
def test_one_step_is_within_its_bound(cell: str, seed: int, H: int, B: int, scale: float) -> None:
    """Weights, states and gradients from a thousandth to a thousand: linear, usual and saturated gates."""
    rng, parts = np.random.default_rng(seed), len(CELLS[cell].state._fields)
    p = {name.split(".")[-1]: value * 10**scale for name, value in random_parameters(rng, cell, Sizes(H=H)).items()}
    state, d_state = rng.normal(size=(2, parts, B, H)) * 10**scale
    x_part = rng.normal(size=(B, len(CELLS[cell].gates) * H)) * 10**scale
    step = (p, x_part, tuple(state), tuple(d_state))
    results = zip(one_step(cell, np.copy, *step), one_step_under_autograd(cell, *step), strict=True)
    for (by_numpy, by_torch), bound in zip(results, one_step(cell, bounded, *step), strict=True):
        assert (np.abs(by_numpy - by_torch) <= 2 * errors(bound)).all()


@pytest.mark.parametrize("T", [3, 10, 50, 200])
def test_the_bound_of_a_step_is_tight_however_long_the_sequence(T: int) -> None:
    """The median share of the bound that NumPy's error uses stays above 1e-3: the bound would not hide an error of 1000
    of its own roundings. The error is measured against 60 digits. The distance from autograd would not do: on some
    processors the two agree to the bit in most entries."""
    shares = []
    for cell, kind in CELLS.items():
        case = random_layers(cell, Sizes(T=T, B=2, I=3, H=8))
        p, rng = case.network.parameters_of(0, case.parameters), np.random.default_rng(1)
        state = kind.state(*(case.inputs[f"initial.{part}"][0] for part in kind.state._fields))
        for t, x in enumerate(case.inputs["x"]):
            x_part = x @ p["weight_ih"].T + p["bias_ih"]
            step = (p, x_part, tuple(state), tuple(rng.normal(size=(len(state), *state.h.shape))))
            if t >= T - 10:  # 60 digits take their time
                shares.append(shares_of_bounds(one_step(cell, np.copy, *step), *of_step(cell, step)))
            state, _ = kind.step(x_part, state, p, ACTIVATIONS)
    used = np.concatenate(shares)
    print(f"T={T}: median share of the bound {np.median(used):.1e}, largest {used.max():.2f}")
    assert used.max() <= 1 and np.median(used) > 1e-3


def of_step(cell: str, step: tuple) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The truth of one step, in 60 digits, and its bounds."""
    with localcontext() as context:
        context.prec = DIGITS
        truth = one_step(cell, decimals, *step)
    return truth, [errors(bound) for bound in one_step(cell, bounded, *step)]


decimals = np.frompyfunc(Decimal, 1, 1)


def shares_of_bounds(results: list[np.ndarray], truth: list[np.ndarray], bounds: list[np.ndarray]) -> np.ndarray:
    """|result − truth| over the bound, of every entry whose bound is not 0."""
    with localcontext() as context:
        context.prec = DIGITS
        apart = [np.abs(decimals(a) - b).astype(np.float64) for a, b in zip(results, truth, strict=True)]
    shares = [(a[e > 0] / e[e > 0]).ravel() for a, e in zip(apart, bounds, strict=True)]
    assert all((a[e == 0] == 0).all() for a, e in zip(apart, bounds, strict=True))
    return np.concatenate(shares)


def shares_of_a_sequence(case: Case, bounds: Arrays | None = None) -> dict[str, np.ndarray]:
    """|numpy − autograd| over the sum of both bounds, every entry, by backend."""
    by_numpy, shares = by_hand(case, np.copy), {}
    bounds = bounds or sequence_bounds(case)
    for backend in BACKENDS:
        results = by_autograd(case, torch.float64, backend)
        assert {name for name in bounds if "layer" not in name} == results.keys()
        apart = {name: np.abs(by_numpy[name] - result) for name, result in results.items()}
        with np.errstate(invalid="ignore"):  # at padding both are 0, and so is the bound
            each = [np.where(d == 0, 0, d / (2 * bounds[name])).ravel() for name, d in apart.items()]
        shares[backend] = np.concatenate(each)
    return shares


def largest(shares: dict[str, np.ndarray]) -> float:
    return max(float(of.max()) for of in shares.values())


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_is_within_its_bound(cell: str, seed: int, T: int, H: int, B: int, L: int) -> None:
    assert largest(shares_of_a_sequence(random_layers(cell, Sizes(T, B, 2, H, L), seed))) <= 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))
@pytest.mark.parametrize("cell", CELLS)
def test_uneven_sequences_with_dropout_are_within_their_bounds(
    cell: str, seed: int, T: int, B: int, L: int, D: int
) -> None:
    case = random_layers(cell, Sizes(T, B, 2, 2, L, D=D), seed, ragged=True, dropout=True)
    assert largest(shares_of_a_sequence(case)) <= 1


@pytest.mark.parametrize("T", [3, 10, 50])
@pytest.mark.parametrize("H", [4, 16])
def test_the_bound_of_a_sequence_is_tight_up_to_50_steps(T: int, H: int) -> None:
    """The median share of the bound that NumPy's error uses, measured against 60 digits, stays above 1e-4."""
    shares = []
    for cell in CELLS:
        case = random_layers(cell, Sizes(T, 1, 3, H))
        by_numpy, bounds = by_hand(case, np.copy), sequence_bounds(case)
        assert largest(shares_of_a_sequence(case, bounds)) <= 1
        with localcontext() as context:
            context.prec = DIGITS
            truth = by_hand(case, decimals)
        shares.append(shares_of_bounds(*([of[name] for name in by_numpy] for of in (by_numpy, truth, bounds))))
    used = np.concatenate(shares)
    print(f"T={T}, H={H}: median share of the bound {np.median(used):.1e}, largest {used.max():.2f}")
    assert used.max() <= 1 and np.median(used) > 1e-4


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_narrow_formats_have_bounds_of_their_own(cell: str, name: str) -> None:
    """In bfloat16, the remainder is as large as what it is the remainder of, and sums round after every few terms."""
    dtype, kind = getattr(torch, name), FORMATS[name]
    for seed in range(20):
        drawn = random_layers(cell, Sizes(T=3, B=2, I=2, H=3), seed)
        groups = ("inputs", "parameters", "cotangents")
        held = {group: rounded(getattr(drawn, group), dtype, scale=0.5) for group in groups}
        case = replace(drawn, **held)
        by_numpy, bounds = by_hand(case, np.copy), sequence_bounds(case, kind)
        for backend in BACKENDS:
            for result, value in by_autograd(case, dtype, backend).items():
                assert (np.abs(by_numpy[result] - value) <= bounds[result]).all(), (backend, result)
                assert (value != by_numpy[result]).any()


def rounded(arrays: Arrays, dtype: torch.dtype, scale: float) -> Arrays:
    return {name: torch.tensor(value * scale).to(dtype).double().numpy() for name, value in arrays.items()}


FUNCTIONS = {
    "product": (lambda u, v: u * v, lambda x, y: (y, x)),
    "quotient": (lambda u, v: u / v, lambda x, y: (1 / y, -x / y**2)),
    "exp": (lambda u, v: np.exp(u), lambda x, y: (np.exp(x), 0.0)),
    "ln": (lambda u, v: np.log(u) if isinstance(u, float) else u.ln(), lambda x, y: (1 / x, 0.0)),
    "tanh": (
        lambda u, v: 1 - 2 / ((2 * u).exp() + 1) if isinstance(u, Decimal) else np.tanh(u),
        lambda x, y: (1 - np.tanh(x) ** 2, 0.0),
    ),
}
LARGE, RADIUS, SHARE = st.floats(0.5, 4), st.floats(0, 0.2), st.floats(-1, 1)


@given(LARGE, LARGE, RADIUS, RADIUS, SHARE, SHARE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_the_radius_leaves_is_the_error(
    name: str, x: float, y: float, r: float, s: float, a: float, b: float
) -> None:
    """The radius is what is linear in the deviations, and the error what is not."""
    function, slopes = FUNCTIONS[name]
    found, (slope_x, slope_y) = function(Bounded(x, radius=r), Bounded(y, radius=s)), slopes(x, y)
    assert found.radius == pytest.approx(abs(slope_x) * r + abs(slope_y) * s)
    linear = slope_x * a * r + slope_y * b * s
    rounding = 1e-13  # of this line, whose numbers are at most e⁴·⁴: 2¹⁰ roundings of 10⁻¹⁶
    assert abs(function(x + a * r, y + b * s) - function(x, y) - linear) <= found.error + rounding


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_rounded_operation_is_within_its_bound_and_uses_it(name: str) -> None:
    """Against 60 digits: the worst of 200 results uses a tenth of its bound or more."""
    rng, function, shares = np.random.default_rng(0), FUNCTIONS[name][0], []
    with localcontext() as context:
        context.prec = 60
        for x, y in rng.uniform(0.5, 4, (200, 2)):
            truth, found = function(Decimal(x), Decimal(y)), function(Bounded(x), Bounded(y))
            shares.append(float(abs(Decimal(float(found.value)) - truth)) / found.error)
    assert 0.1 <= max(shares) <= 1


@pytest.mark.parametrize("cell", CELLS)
def test_every_source_moves_what_it_stands_for(cell: str) -> None:
    case = member_of(random_layers(cell, Sizes(T=3, B=2, I=2, H=3, L=2, D=2)), 1)
    sources = Sources(case)
    found = jacobians(case, sources)
    for what, numbers in sources.numbers.items():
        for place in range(2 if what == "d_x" else 0, 4):
            itself = np.take_along_axis(found.layers[place][what], numbers[place][..., np.newaxis], axis=-1)
            assert (itself == 1).all(), (what, place)
    assert sorted(np.concatenate([n[n >= 0].ravel() for n in sources.numbers.values()]))[-1] == sources.count - 1


@pytest.mark.parametrize("loss", ["every", "last"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_short_whole_model_is_within_the_bound_that_its_own_code_gives(cell: str, loss: str) -> None:
    """The plain running bound over the whole computation; it grows with T far faster than errors do, so T is small."""
    for seed in range(4):
        within_the_running_bound(random_model(cell, Sizes(T=4, B=2, I=3, H=4, L=2, V=5), seed, loss))


def within_the_running_bound(case: Case) -> None:
    by_numpy, bounds = by_hand(case, np.copy), by_hand(case, bounded)
    for backend in BACKENDS:
        for name, result in by_autograd(case, torch.float64, backend).items():
            assert (np.abs(by_numpy[name] - result) <= 2 * errors(bounds[name])).all(), (backend, name)


ATTENTIVE: dict[str, Callable[[str, int], Case]] = {
    "attention": lambda cell, seed: random_model(
        cell, Sizes(T=3, B=2, I=4, H=4, V=5), seed, tied=True, attention_span=3
    ),
    "classifier": lambda cell, seed: random_classifier(cell, Sizes(T=3, B=2, I=2, H=2, V=5, D=2), seed),
}


@pytest.mark.parametrize("kind", ATTENTIVE)
@pytest.mark.parametrize("cell", CELLS)
def test_models_with_attention_are_within_the_running_bound(cell: str, kind: str) -> None:
    for seed in range(4):
        within_the_running_bound(ATTENTIVE[kind](cell, seed))


@pytest.mark.parametrize("cell", CELLS)
def test_well_scaled_results_are_the_same_in_float32(cell: str, backend: str) -> None:
    """Two float64 results that differ in their last bits round to the same float32, unless the boundary between two
    float32 numbers lies between them: one entry in some 10⁷, and then they are neighbours. On some processor one of
    these 2,000 entries may be such; two would be a fault."""
    case = random_layers(cell, Sizes(T=10, B=2, I=3, H=8, L=2))
    by_numpy, by_torch = by_hand(case, np.copy), by_autograd(case, torch.float64, backend)
    differing = 0
    for name, result in by_torch.items():
        ours, theirs = by_numpy[name].astype(np.float32), result.astype(np.float32)
        apart = np.abs(ours - theirs)
        assert (apart <= np.spacing(np.maximum(np.abs(ours), np.abs(theirs)))).all(), name
        differing += np.count_nonzero(apart)
    assert differing <= 1


def test_a_term_that_is_missing_is_far_outside() -> None:
    """What a bound of 1e-14 or so says of a gradient that lacks its smallest part."""
    case = random_layers("lstm", Sizes(T=4, B=2, I=3, H=4))
    bounds, true = by_hand(case, bounded), by_hand(case, np.copy)
    for name, bound in bounds.items():
        assert errors(bound).max() < 1e-9 * np.abs(true[name]).max(), name
