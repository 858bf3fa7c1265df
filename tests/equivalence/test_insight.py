"""What is shown of a model's inside is what autograd and NumPy by hand say, in the exact cases to the last bit."""

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from bptt.cells import CELLS as TWIN_CELLS
from bptt.insight import gradients_of_logits as gradients_by_hand
from bptt.insight import jacobians as jacobians_by_hand
from bptt.insight import state_gradients as state_gradients_by_hand
from bptt.losses import per_step_cross_entropy
from bptt.networks import LanguageModel as LanguageModelTwin
from bptt.networks import Trace, within
from bptt.verify.cases import Arrays, Case, Sizes, exact_points_model, model_forward, piecewise_linear_model
from bptt.verify.dyadic import bits_needed, dyadic, floats
from bptt.verify.numbers import largest_terms, terms
from bptt.verify.smooth_cases import random_model
from models.insight.connectivity import gradients_of_logits
from models.insight.flow import state_gradients
from models.insight.recording import gates, inputs, jacobians, record
from models.language_model import LanguageModel
from tests.equivalence.exact_cases import CELLS, DOUBLE

ULPS = 8  # as for every other gradient: tests/equivalence/test_within_ulps.py
SMALL = Sizes(T=6, B=1, I=3, H=4, V=5)
DEEP = Sizes(T=6, B=1, I=3, H=4, L=2, V=5)
SMOOTH: list[tuple[Sizes, dict[str, Any]]] = [
    (SMALL, {}), (DEEP, {}), (SMALL, {"one_hot": True}), (DEEP, {"attention_span": 3}), (SMALL, {"attention_span": 9}),
    (Sizes(T=1, B=1, I=1, H=1, V=2), {}),
]  # fmt: skip


def model_of(case: Case) -> tuple[LanguageModel, Any]:
    """The torch model of a case, and its state before the first step."""
    s, network = case.sizes, case.network
    assert isinstance(network, LanguageModelTwin)
    options = {name: getattr(network.recurrent, name) for name in ("cell", "activation", "gate_activation")}
    size = s.I if "embedding.weight" in case.parameters else None
    options |= {"hidden_size": s.H, "num_layers": s.L, "attention_span": network.attention_span}
    model = LanguageModel(s.V, embedding_size=size, **options).double().eval()
    model.load_state_dict({name: torch.tensor(value) for name, value in case.parameters.items()})
    state = TWIN_CELLS[network.recurrent.cell].state._fields
    before = tuple(torch.tensor(case.inputs[f"initial.{part}"]) for part in state)
    if not network.attention_span:
        return model, before
    return model, (before, torch.tensor(case.inputs["initial.memory"]))


def swept(case: Case, symbols: Any, span: int) -> Arrays:
    """∂z_k(t̃)/∂x_{t̃ − back} (T, K, E) of one sweep."""
    model, state = model_of(case)
    found = np.zeros((len(symbols), span, case.sizes.I if model.embedding else case.sizes.V))
    with torch.no_grad():
        recording = record(model, torch.tensor(case.inputs["tokens"]), state)
        for t, gradients in gradients_of_logits(model, recording, torch.tensor(symbols[:, 0]), span):
            for back, gradient in enumerate(gradients.numpy()):
                found[t + back, back] = gradient
    return found


def by_hand(case: Case, convert: Any, symbols: Any, span: int) -> Any:
    """The same, one backward pass for each prediction."""
    p, trace, logits = traced(case, convert)
    rows = list(gradients_by_hand(case.network, p, logits, trace, symbols))
    found = np.full((len(symbols), span, rows[0].shape[-1]), logits.flat[0] * 0)
    for t, row in enumerate(rows):
        for back in range(min(span, t + 1)):
            found[t, back] = row[t - back, 0]
    return found


def drawn_symbols(case: Case) -> Any:
    return np.random.default_rng(1).integers(0, case.sizes.V, (case.sizes.T, 1))


@pytest.mark.parametrize("sizes, options", SMOOTH, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_one_sweep_gives_every_connection_that_as_many_backward_passes_give(
    cell: str, sizes: Sizes, options: dict[str, Any]
) -> None:
    for seed, span in ((0, sizes.T), (1, 2)):
        case = random_model(cell, sizes, seed, **options)
        symbols, span = drawn_symbols(case), min(span, sizes.T)
        ours, theirs = swept(case, symbols, span), by_hand(case, np.copy, symbols, span)
        largest = largest_terms(by_hand(case, terms, symbols, span))
        assert theirs.any() and (np.abs(ours - theirs) <= ULPS * np.spacing(largest)).all()


@pytest.mark.parametrize("sizes, options", SMOOTH[:5], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_one_sweep_gives_what_autograd_gives(cell: str, sizes: Sizes, options: dict[str, Any]) -> None:
    case = random_model(cell, sizes, **options)
    symbols = drawn_symbols(case)
    model, state = model_of(case)
    x = inputs(model, torch.tensor(case.inputs["tokens"])).detach().requires_grad_()
    before, memory = state if model.attention else (state, None)
    hidden, _ = model.recurrent(x, before)
    logits = model.head(model.attention(hidden, memory)[0] if model.attention else hidden)[:, 0]
    ours, largest = swept(case, symbols, sizes.T), largest_terms(by_hand(case, terms, symbols, sizes.T))
    for t, symbol in enumerate(symbols[:, 0]):
        theirs = torch.autograd.grad(logits[t, symbol], x, retain_graph=True)[0][:, 0].numpy()
        assert not theirs[t + 1 :].any()
        assert (np.abs(ours[t, : t + 1] - theirs[t::-1]) <= ULPS * np.spacing(largest[t, : t + 1])).all()


SEEDS = 3
EXACT = [Sizes(T=4, B=1, I=3, H=5), Sizes(T=8, B=1, I=2, H=3), Sizes(T=4, B=1, I=3, H=5, L=2)]


@cache
def drawn(draw: Any, cell: str, sizes: Sizes, seed: int) -> Case:
    return draw(cell, sizes, seed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("draw", [piecewise_linear_model, exact_points_model])
@pytest.mark.parametrize("sizes", EXACT, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_connections_are_the_bits_of_the_truth(cell: str, sizes: Sizes, draw: Any) -> None:
    tried = np.zeros((sizes.T, sizes.T), bool)
    for seed in range(SEEDS):
        case = drawn(draw, cell, sizes, seed)
        symbols = drawn_symbols(case)
        exact = by_hand(case, dyadic, symbols, sizes.T)
        truth = floats(exact)
        assert bits_needed(exact) <= DOUBLE
        assert (swept(case, symbols, sizes.T) == truth).all()
        assert (by_hand(case, np.copy, symbols, sizes.T) == truth).all()
        tried |= truth.any(-1)
    assert tried[:, 0].any() and tried[:, 1:].any()  # of the symbol itself, and of earlier ones


@pytest.mark.parametrize("sizes", EXACT, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_the_recorder_gives_the_bits_of_the_truth_for_every_state(cell: str, sizes: Sizes) -> None:
    tried = False
    for seed, loss in product(range(SEEDS), ("every", "last")):
        case = drawn(exact_points_model, cell, sizes, seed)
        ours, exact = recorded(case, loss), backed(case, loss, dyadic)
        for mine, truth in zip(ours, exact, strict=True):
            for part in mine._fields:
                assert bits_needed(getattr(truth, part)) <= DOUBLE
                assert (getattr(mine, part).numpy() == floats(getattr(truth, part))).all()
                tried |= bool(floats(getattr(truth, part)).any())
    assert tried


def recorded(case: Case, loss: str) -> list[Any]:
    """∂L/∂ every state, where the targets are the symbols that follow."""
    (model, state), following = model_of(case), case.inputs["targets"][-1:]
    tokens = torch.tensor(np.concatenate([case.inputs["tokens"], following]))
    return state_gradients(model, tokens, state, loss)[1]


def backed(case: Case, loss: str, convert: Any) -> list[Any]:
    """The same by hand."""
    p, trace, logits = traced(case, convert)
    targets = np.concatenate([case.inputs["tokens"][1:], case.inputs["targets"][-1:]])
    return state_gradients_by_hand(case.network, p, per_step_cross_entropy(logits, targets, loss)[1], trace)


def traced(case: Case, convert: Any) -> tuple[Arrays, Trace, Any]:
    p = {name: convert(value) for name, value in case.parameters.items()}
    initial = {name: convert(value) for name, value in case.inputs.items() if name.startswith("initial.")}
    logits, trace = model_forward(case.network, case.inputs | initial | p)
    return p, trace, logits


@pytest.mark.parametrize("loss", ["every", "last"])
@pytest.mark.parametrize("sizes, options", SMOOTH[:5], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_the_recorder_and_numpy_give_the_same_gradient_of_every_state(
    cell: str, sizes: Sizes, options: dict[str, Any], loss: str
) -> None:
    case = random_model(cell, sizes, loss=loss, **options)
    rooms = recorded(case, loss), backed(case, loss, np.copy), backed(case, loss, terms)
    for ours, theirs, written_out in zip(*rooms, strict=True):
        for part in ours._fields:
            allowed = ULPS * np.spacing(largest_terms(getattr(written_out, part)))
            assert getattr(theirs, part).any()
            assert (np.abs(getattr(ours, part).numpy() - getattr(theirs, part)) <= allowed).all()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("cell", CELLS)
def test_jacobians_are_those_of_numpy(cell: str, place: int) -> None:
    case = random_model(cell, DEEP)
    model, state = model_of(case)
    with torch.no_grad():
        recording = record(model, torch.tensor(case.inputs["tokens"]), state)
    twin, act = TWIN_CELLS[cell], case.network.recurrent.activations()
    for part in twin.state._fields:

        def theirs(convert: Any, part: str = part) -> Any:
            p, trace, _ = traced(case, convert)
            of_layer = within(f"recurrent.cells.{place}.", p)
            return jacobians_by_hand(trace.layers[place], of_layer, twin, act, part)[:1:-1, 0]

        with torch.no_grad():
            ours = jacobians(recording.layers[place], part, 4).numpy()
        assert (ours[0] == np.eye(DEEP.H)).all()
        assert (np.abs(ours - theirs(np.copy)) <= ULPS * np.spacing(largest_terms(theirs(terms)))).all()


@pytest.mark.parametrize("cell", CELLS)
def test_gates_are_those_that_the_cell_computed(cell: str) -> None:
    """Within a few ULPs: all steps stand in one matrix product here, each in its own there."""
    case = random_model(cell, Sizes(T=5, B=3, I=3, H=4, V=5))
    model, state = model_of(case)
    with torch.no_grad():
        (layer,) = record(model, torch.tensor(case.inputs["tokens"]), state).layers
        found = gates(layer)
    _, trace, _ = traced(case, np.copy)
    saved = [dict(zip(TWIN_CELLS[cell].saved, step, strict=True)) for step in trace.layers[0].saved]
    for name, gate in found.items():
        for value, theirs in ((gate.y, name), (gate.a, f"a_{name}" if cell != "rnn" else "a")):
            # a is a sum of nine terms, none of them beyond 8: ULPs of such, 2⁻⁵⁰, are what it may be apart
            assert np.abs(value.numpy() - np.stack([step[theirs] for step in saved])).max() <= ULPS * 2.0**-50
        a = gate.a.clone().requires_grad_()
        function = torch.sigmoid if name in "iforz" else torch.tanh
        (slope,) = torch.autograd.grad(function(a).sum(), a)
        assert (gate.slope - slope).abs().max() <= ULPS * 2.0**-54  # slopes are below 1, their last bit 2⁻⁵³ at most
