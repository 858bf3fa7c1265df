"""Tier E5: other implementations, other ways to differentiate, and identities that need no oracle at all."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.forward_ad import dual_level, make_dual

from bptt.layers import Recurrent as RecurrentTwin
from bptt.losses import per_step_cross_entropy
from bptt.verify.cases import (
    Arrays,
    Case,
    Sizes,
    by_hand,
    exact_points,
    layers_forward,
    parts_of,
    piecewise_linear,
    state_of,
)
from bptt.verify.smooth_cases import random_layers, random_model
from models.recurrent import Recurrent
from tests.equivalence.exact_cases import CELLS, SIZES, UNEVEN
from twins import by_autograd, by_torch_layers, module_of

SHAPES = Sizes(T=4, B=2, I=3, H=5, L=2)


@pytest.mark.parametrize("sizes, ragged", [*[(s, False) for s in SIZES], *[(s, True) for s in UNEVEN]], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_torch_layers_give_the_bits_of_the_truth(cell: str, sizes: Sizes, ragged: bool) -> None:
    """On packed sequences, where lengths differ."""
    case = exact_points(cell, sizes, seed=0, ragged=ragged)
    theirs = by_torch_layers(case, torch.float64)
    assert theirs.keys() == case.truth.keys()
    assert all((theirs[name] == truth).all() for name, truth in case.truth.items())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_convert_to_torch_and_back(cell: str, bidirectional: bool) -> None:
    ours = Recurrent(cell, 3, 5, 2, bidirectional=bidirectional).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert torch.allclose(ours.to_torch()(x)[0], ours(x)[0], rtol=0, atol=1e-15)  # values below 1: a few ULPs
    again = Recurrent.from_torch(ours.to_torch())
    assert {of.dtype for of in again.parameters()} == {torch.float64}
    assert all((again.state_dict()[name] == value).all() for name, value in ours.state_dict().items())


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_autograd_agrees_with_finite_differences(cell: str, directions: int, backend: str) -> None:
    case = random_layers(cell, Sizes(T=3, B=2, I=2, H=2, L=2, D=directions), ragged=directions == 2)
    lengths = torch.tensor(case.inputs["lengths"]) if directions == 2 else None
    assert isinstance(case.network, RecurrentTwin)
    module = module_of(case.network, case, case.sizes.I, backend).double()

    def run(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state, parameters = rest[: len(initial)], dict(zip(names, rest[len(initial) :], strict=True))
        output, final = torch.func.functional_call(module, parameters, (x, state, lengths))
        return output, *final

    names = [name for name, _ in module.named_parameters()]
    initial = [value for name, value in case.inputs.items() if name.startswith("initial.")]
    given = [case.inputs["x"], *initial, *(case.parameters[name] for name in names)]
    assert torch.autograd.gradcheck(run, [torch.tensor(array, requires_grad=True) for array in given])


@pytest.mark.parametrize("cell", CELLS)
def test_the_steps_shares_and_the_loss_terms_shares_add_up_to_the_gradient(cell: str) -> None:
    case = random_model(cell, SHAPES)
    network, p = case.network, case.parameters
    logits, trace = network.forward(p, case.inputs["tokens"])
    _, d_logits = per_step_cross_entropy(logits, case.inputs["targets"])
    whole = network.backward(p, d_logits, trace)
    for name, parts in network.by_step(whole, trace).items():
        assert parts.shape == (SHAPES.T, *p[name].shape)
        close(parts.sum(0), whole.parameters[name], np.abs(parts).max())
    terms = list(network.by_loss_term(p, d_logits, trace))
    for name, gradient in whole.parameters.items():
        close(sum(term[name] for term in terms), gradient, max(np.abs(term[name]).max() for term in terms))


@pytest.mark.parametrize("sizes, ragged", [(SHAPES, False), (UNEVEN[-2], True)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_the_steps_shares_add_up_to_the_bit_where_nothing_rounds(cell: str, sizes: Sizes, ragged: bool) -> None:
    """Of a reverse direction too: its δ of a step meets what that step read."""
    case = piecewise_linear(cell, sizes, seed=0, ragged=ragged, density=0.3 if ragged else 0.4)
    network = case.network
    _, _, traces = layers_forward(network, case.inputs | case.parameters)
    d_final = state_of(network, case.cotangents, "d.final.")
    d = network.backward(case.parameters, case.cotangents["d.output"], d_final, traces)
    for name, parts in network.by_step(d, traces).items():
        assert (parts.sum(0) == case.truth[f"d.{name}"]).all(), name


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_in_two_pieces_with_the_gradient_carried_over_is_the_whole(cell: str) -> None:
    case = piecewise_linear(cell, SHAPES, seed=0)
    network, p, cut = case.network, case.parameters, 3
    x, d_output = case.inputs["x"], case.cotangents["d.output"]
    first, middle, first_traces = network.forward(p, x[:cut], state_of(network, case.inputs, "initial."))
    second, _, second_traces = network.forward(p, x[cut:], middle)
    late = network.backward(p, d_output[cut:], state_of(network, case.cotangents, "d.final."), second_traces)
    early = network.backward(p, d_output[:cut], late.initial_state, first_traces)
    assert (np.concatenate([first, second]) == case.truth["output"]).all()
    assert (np.concatenate([early.x, late.x]) == case.truth["d.x"]).all()
    for name, value in parts_of(early.initial_state, "d.initial.").items():
        assert (value == case.truth[name]).all()
    for name in p:
        assert (early.parameters[name] + late.parameters[name] == case.truth[f"d.{name}"]).all(), name


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_a_batch_are_the_sum_over_its_members(cell: str) -> None:
    case = piecewise_linear(cell, Sizes(T=4, B=3, I=2, H=5), seed=0)
    members = [by_hand(member(case, b), np.copy) for b in range(case.sizes.B)]
    for name in case.parameters:
        assert (sum(results[f"d.{name}"] for results in members) == case.truth[f"d.{name}"]).all(), name


def member(case: Case, b: int) -> Case:
    def alone(arrays: Arrays) -> Arrays:
        return {name: value[:, b : b + 1] for name, value in arrays.items()}

    return Case(**{**vars(case), "inputs": alone(case.inputs), "cotangents": alone(case.cotangents)})


@pytest.mark.parametrize("cell", CELLS)
def test_units_may_change_places(cell: str) -> None:
    case = piecewise_linear(cell, Sizes(T=4, B=2, I=3, H=5), seed=0)
    order = np.random.default_rng(0).permutation(case.sizes.H)

    def rows(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, case.sizes.H, *array.shape[1:])[:, order].reshape(array.shape)

    def permuted(name: str, array: np.ndarray) -> np.ndarray:
        if name.endswith("weight_hh"):
            return rows(array)[:, order]
        if "weight" in name or "bias" in name:
            return rows(array)
        return array if name in ("x", "d.x") else array[..., order]

    parts = {
        key: {n: permuted(n, a) for n, a in getattr(case, key).items()}
        for key in ("inputs", "parameters", "cotangents")
    }
    results = by_hand(Case(**{**vars(case), **parts}), np.copy)
    for name, truth in case.truth.items():
        assert (results[name] == permuted(name, truth)).all(), name


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward-mode rules use it
@pytest.mark.parametrize("cell", CELLS)
def test_the_jacobian_forward_and_the_jacobian_backward_are_transposes(cell: str) -> None:
    """⟨J v, u⟩ = ⟨v, Jᵀ u⟩ with J v from dual numbers (forward-mode AD) and Jᵀ u from manual BPTT."""
    case = random_layers(cell, SHAPES)
    module = module_of(case.network, case, case.sizes.I, "autograd").double()
    module.load_state_dict({name: torch.tensor(value) for name, value in case.parameters.items()})
    v = {name: np.random.default_rng(1).normal(size=value.shape) for name, value in case.inputs.items()}

    def run(x: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output, final = module(x, state)
        return output, *final

    primals = tuple(torch.tensor(value) for value in case.inputs.values())
    _, forward = torch.func.jvp(run, primals, tuple(torch.tensor(value) for value in v.values()))
    u = case.cotangents.values()
    left = sum((jv.detach().numpy() * cotangent).sum() for jv, cotangent in zip(forward, u, strict=True))
    backward = by_hand(case, np.copy)
    terms = [v[name] * backward[f"d.{name}"] for name in v]
    right = sum(term.sum() for term in terms)
    close(left, right, max(np.abs(term).max() for term in terms))


@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_are_right_or_refused(cell: str) -> None:
    """The autograd backend has them, by gradgradcheck; the fused one says which backend to take."""
    x = torch.randn(2, 1, 2, dtype=torch.float64, requires_grad=True)
    layers = Recurrent(cell, 2, 2, backend="autograd").double()
    assert torch.autograd.gradgradcheck(lambda x: layers(x)[0], x)
    layers.backend = "fused"
    with pytest.raises(RuntimeError, match="no second derivatives: use backend='autograd'"):
        torch.autograd.grad(layers(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no forward-mode derivatives: use backend='autograd'"):
        torch.func.jvp(lambda x: layers(x)[0], (x,), (x,))
    with pytest.raises(RuntimeError, match="no forward-mode derivatives: use backend='autograd'"), dual_level():
        layers(make_dual(x.detach(), x.detach()))


def close(a: np.ndarray, b: np.ndarray, largest_term: float) -> None:
    """Two sums of a few dozen terms, in different orders: each addition may lose half an ULP of the largest one."""
    assert np.abs(a - b).max() <= 64 * np.spacing(largest_term)


def test_nn_embedding_free_models_read_one_hot_input(backend: str) -> None:
    """One-hot input is an embedding by the identity matrix."""
    case = random_model("lstm", SHAPES, one_hot=True)
    embedded = Case(**{**vars(case), "parameters": case.parameters | {"embedding.weight": np.eye(SHAPES.V)}})
    by_index, by_product = by_hand(case, np.copy), by_hand(embedded, np.copy)
    assert all((by_product[name] == value).all() for name, value in by_index.items())
    assert isinstance(nn.LSTM(3, 5), nn.RNNBase) and by_autograd(case, torch.float64, backend)["loss"] > 0
