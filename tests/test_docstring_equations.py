"""Every equation in a docstring is what the code computes: these tests evaluate the text itself."""

import ast
import inspect
import re
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bptt import attention as numpy_attention
from bptt import cells as numpy_cells
from bptt.arithmetic import clip, sigmoid, tanh
from bptt.attention import affine_gradients, attention_pooling, causal_attention, softmax, softmax_backward
from bptt.insight import whole_states
from bptt.layers import LayerTrace, layer_forward, parameter_gradients
from bptt.layers import Recurrent as NumpyRecurrent
from bptt.losses import softmax_cross_entropy, weighted_cross_entropy
from bptt.networks import Classifier as ClassifierTwin
from bptt.networks import LanguageModel as LanguageModelTwin
from bptt.optimizers import SGD, AdaGrad, clip_by_norm
from bptt.verify import bounds, sequences
from bptt.verify.bounds import FUNCTION_ULPS, STEEPEST, BFloat16, Bounded
from bptt.verify.cases import Sizes
from bptt.verify.oracles import real_time_recurrent_learning
from bptt.verify.smooth_cases import random_layers
from models import cells as torch_cells
from models.attention import AttentionPooling, CausalAttention
from models.classifier import Classifier
from models.initialization import initialize
from models.insight import connectivity
from models.insight.recording import gates, inputs, record
from models.insight.statistics import area_under_curve
from models.language_model import LanguageModel
from models.projections import add_products
from models.recurrent import Dropout, Recurrent
from models.sampling import draw
from models.stepping import LAYERS, GRULayer
from models.steps import ACTIVATION_OF
from models.steps import STEPS as FUSED_STEPS

STEPS = {"rnn": numpy_cells.rnn_step, "gru": numpy_cells.gru_step, "lstm": numpy_cells.lstm_step}
B, I, H = 2, 3, 4
NEAR = {"rtol": 0, "atol": 1e-14}  # values near 1, a dozen roundings: some 50 ULPs are plenty


def equations(documented: Any) -> list[tuple[str, str]]:
    """The lines `name = expression` of a docstring, as Python: products of matrices, primes, subscripts, ∘, ·, −, √."""
    found = re.findall(r"^ *(\w+'?) = (.+)$", inspect.getdoc(documented) or "", re.MULTILINE)
    assert found, f"no equation in the docstring of {documented}"
    return [(as_python(name), as_python(expression)) for name, expression in found]


def as_python(text: str) -> str:
    text = re.sub(r"(W_\w+) (\w+)", r"(\2 @ \1.T)", text).replace("'", "_next")
    text = text.translate(str.maketrans("∘·−₀₁", "**-01"))
    text = re.sub(r"Σ_(\w+) (\w+)", r"Σ(\2[\1])", text)
    text = re.sub(r"√(\w+)", r"sqrt(\1)", text).replace("10⁻⁶", "1e-6").replace("10⁻¹⁰", "1e-10")
    return re.sub(r"\b(lr) (g)\b", r"\1 * \2", text).replace("²", "**2")


def evaluated(documented: Any, values: dict[str, Any]) -> dict[str, Any]:
    scope = {
        "σ": sigmoid,
        "tanh": tanh,
        "sqrt": np.sqrt,
        "exp": np.exp,
        "log": np.log,
        "mean": np.mean,
        "Σ": sum,
        **values,
    }
    for name, expression in equations(documented):
        scope[name] = eval(expression, scope)
    return scope


def cell_values(cell: str) -> dict[str, np.ndarray]:
    """Random weights under the names that the equations use: W_ii, b_hf and so on; the RNN's have no gate letter."""
    rng, gates = np.random.default_rng(0), numpy_cells.CELLS[cell].gates
    values = {"x": rng.normal(size=(B, I)), "h": rng.normal(size=(B, H)), "c": rng.normal(size=(B, H))}
    for gate in gates:
        for side, size in (("i", I), ("h", H)):
            name = side + (gate if cell != "rnn" else "h")
            values |= {f"W_{name}": rng.normal(size=(H, size)), f"b_{name}": rng.normal(size=H)}
    return values


def stacked(cell: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    gates = numpy_cells.CELLS[cell].gates
    letters = {side: [side + (gate if cell != "rnn" else "h") for gate in gates] for side in ("i", "h")}
    return {
        f"{kind}_{side}h": np.concatenate(
            [values[f"{kind[0].upper() if kind == 'weight' else 'b'}_{name}"] for name in names]
        )
        for kind in ("weight", "bias")
        for side, names in letters.items()
    }


@pytest.mark.parametrize("cell", STEPS)
def test_the_numpy_cell_computes_its_docstring(cell: str) -> None:
    values = cell_values(cell)
    p = stacked(cell, values)
    said = evaluated(STEPS[cell], values)
    prev = numpy_cells.CELLS[cell].state(*[values["h"], values["c"]][: len(numpy_cells.CELLS[cell].state._fields)])
    x_part = values["x"] @ p["weight_ih"].T + p["bias_ih"]
    state, _ = STEPS[cell](x_part, prev, p, numpy_cells.Activations())
    for part, computed in state._asdict().items():
        np.testing.assert_allclose(computed, said[f"{part}_next"], **NEAR)


@pytest.mark.parametrize("cell", torch_cells.CELLS)
def test_the_torch_cell_computes_its_docstring(cell: str) -> None:
    values = cell_values(cell)
    kind = torch_cells.CELLS[cell]
    module = kind(I, H).double()
    module.load_state_dict({name: torch.tensor(value) for name, value in stacked(cell, values).items()})
    said = evaluated(kind, values)
    prev = kind.state(*(torch.tensor(values[part]) for part in kind.state._fields))
    with torch.no_grad():
        state = module(torch.tensor(values["x"]), prev)
    for part, computed in state._asdict().items():
        np.testing.assert_allclose(computed.numpy(), said[f"{part}_next"], **NEAR)


TORCH_FUNCTIONS = {"σ": torch.sigmoid, "tanh": torch.tanh}


def of_gates(gates: tuple[str, ...], from_x: Any, from_h: Any) -> dict[str, Any]:
    """Both parts of each gate's affine map under the names that the steps use: x_i, h_i and so on."""
    values = {"from_x": from_x, "from_h": from_h}
    for side, parts in (("x", from_x.chunk(len(gates), -1)), ("h", from_h.chunk(len(gates), -1))):
        values |= {f"{side}_{gate}": part for gate, part in zip(gates, parts, strict=True)}
    return values


@pytest.mark.parametrize("cell", torch_cells.CELLS)
def test_a_step_of_the_fused_layers_computes_its_docstring(cell: str) -> None:
    kind, dice = torch_cells.CELLS[cell], torch.Generator().manual_seed(0)
    parts = torch.randn(2, B, len(kind.gates) * H, generator=dice)
    before = kind.state(*torch.randn(len(kind.state._fields), B, H, generator=dice))
    step = FUSED_STEPS[kind](ACTIVATION_OF[torch.sigmoid], ACTIVATION_OF[torch.tanh])
    said = evaluated(type(step), of_gates(kind.gates, *parts) | before._asdict() | TORCH_FUNCTIONS)
    _, after = step.forward(*parts, before)
    for part, computed in after._asdict().items():
        assert (computed == said[f"{part}_next"]).all()


@pytest.mark.parametrize("cell", torch_cells.CELLS)
def test_a_step_that_writes_in_place_computes_its_docstring(cell: str) -> None:
    kind, dice = torch_cells.CELLS[cell], torch.Generator().manual_seed(0)
    module = kind(I, H).double()
    x, *before = (
        torch.randn(B, n, dtype=torch.float64, generator=dice) for n in (I, H, H)[: 1 + len(kind.state._fields)]
    )
    state = kind.state(*before)
    layer = LAYERS[kind](module, state)
    assert f"`models.steps.{FUSED_STEPS[kind].__name__}`" in inspect.getdoc(LAYERS[kind])
    with torch.no_grad():
        said = of_gates(kind.gates, module.project(x), module.recur(state.h)) | state._asdict() | TORCH_FUNCTIONS
        said = evaluated(FUSED_STEPS[kind], said)
        said = evaluated(GRULayer, said) if cell == "gru" else said
        layer.step(layer.project(x))
    for part, computed in layer.state._asdict().items():
        np.testing.assert_allclose(computed, said[f"{part}_next"], **NEAR)


@pytest.mark.parametrize("cell", torch_cells.CELLS)
def test_the_gates_of_a_recording_are_those_of_the_docstring(cell: str) -> None:
    torch.manual_seed(0)
    values, said, tokens = cell_values(cell), dict(equations(gates)), [1, 4, 0, 1]
    model, p = LanguageModel(5, cell, I, H).double(), stacked(cell, values)
    model.recurrent.cells[0].load_state_dict({name: torch.tensor(value) for name, value in p.items()})
    with torch.no_grad():
        (layer,) = record(model, torch.tensor(tokens)[:, None]).layers
        found, x, h = gates(layer), model.embedding.weight[tokens].numpy(), layer.before().h[:, 0].numpy()
    values |= {f"{name[0].upper() if 'weight' in name else 'b'}{name[-3:]}": value for name, value in p.items()}
    values |= {"x": x, "h": h, "r": found["r"].y[:, 0].numpy() if cell == "gru" else None}
    blocks = dict(zip(found, np.split(eval(said["a"], values), len(found), -1), strict=True))
    if cell == "gru":
        blocks["n"] = eval(said["a_n"], values)
    for name, gate in found.items():
        np.testing.assert_allclose(gate.a[:, 0], blocks[name], **NEAR)


def test_the_gradient_of_a_whole_state_is_that_of_the_docstring() -> None:
    cell, rng = numpy_cells.CELLS["lstm"], np.random.default_rng(0)
    p, T = stacked("lstm", cell_values("lstm")), 3
    before = numpy_cells.LSTMState(*rng.normal(size=(2, B, H)))
    _, _, trace = layer_forward(rng.normal(size=(T, B, I)), before, p, cell, numpy_cells.Activations())
    dh, dc_later = rng.normal(size=(2, T, B, H))
    whole = whole_states(numpy_cells.LSTMState(dh, dc_later), trace, cell, numpy_cells.Activations())
    for t, step in enumerate(trace.saved):
        saved = dict(zip(cell.saved, step, strict=True))
        values = {"dh": dh[t], "dc_later": dc_later[t], "o": saved["o"], "c_next": saved["c"]}
        assert (whole.c[t] == evaluated(whole_states, values)["dc"]).all()
    assert whole.h is dh


def test_the_area_under_the_curve_is_that_of_the_docstring() -> None:
    """To the bit: ranks are multiples of ½, and so is every sum of them."""
    rng = np.random.default_rng(0)
    values, flagged = rng.integers(0, 5, (40, 3)).astype(float), rng.random(40) < 0.3
    for column, area in zip(values.T, area_under_curve(values, flagged), strict=True):
        rank = np.array([(column < value).sum() + ((column == value).sum() + 1) / 2 for value in column])
        said = {"rank": rank, "flagged": flagged, "n1": flagged.sum(), "n0": (~flagged).sum()}
        assert area == evaluated(area_under_curve, said)["AUC"]


def test_integrated_gradients_are_the_integral_of_the_docstring() -> None:
    """With 64 nodes in place of 16. Both are within the 1e-8 that tests/models/test_insight_reading.py finds, of values
    below 1; a hundred times that is allowed."""
    text = " ".join((inspect.getdoc(connectivity) or "").split())
    for line in ("integrated: x_t · ∫ ∂z_k(t̃)/∂x_t dα,", "all x of the span are α times what they are, α from 0 to 1"):
        assert line in text
    torch.manual_seed(0)
    model, tokens = LanguageModel(5, "lstm", I, H).double().eval(), torch.tensor([1, 4, 0, 1, 2])
    nodes, shares = np.polynomial.legendre.leggauss(64)
    with torch.no_grad():
        recording = record(model, tokens[:, None])
    found = connectivity.connectivity(model, recording, tokens, span=3)["integrated"]
    for row, values in zip(found["rows"], found["values"], strict=True):
        x = inputs(model, tokens).detach()
        start, symbol = max(0, row - 2), model.head(recording.hidden[row, 0]).argmax()
        integral = torch.zeros_like(x)
        for alpha, share in zip((nodes + 1) / 2, shares / 2, strict=True):
            path = torch.cat([x[:start], alpha * x[start:]]).requires_grad_()
            z = model.head(model.recurrent(path[:, None])[0][row, 0])[symbol]
            integral += share * torch.autograd.grad(z, path)[0]
        said = (x * integral).sum(-1)[start : row + 1].flip(0)
        np.testing.assert_allclose(values[: len(said)], said, rtol=0, atol=1e-6)


def test_the_functions_compute_their_docstrings() -> None:
    a = np.linspace(-5, 5, 41)
    assert "σ(a) = 1 / (1 + e⁻ᵃ)" in inspect.getdoc(sigmoid) and "tanh(a) = 2 σ(2a) − 1" in inspect.getdoc(tanh)
    np.testing.assert_allclose(sigmoid(a), 1 / (1 + np.exp(-a)), **NEAR)
    np.testing.assert_allclose(np.tanh(a), 2 * sigmoid(2 * a) - 1, **NEAR)
    decimals = tanh(np.array([Decimal(x) for x in a.tolist()]))
    np.testing.assert_allclose(decimals.astype(float), np.tanh(a), **NEAR)
    assert "max(low, min(x, high))" in inspect.getdoc(clip)
    assert clip(a, -1, 2).tolist() == [max(-1, min(x, 2)) for x in a]


def test_softmax_and_its_gradient_compute_their_docstrings() -> None:
    s, d_a = np.random.default_rng(0).normal(size=(2, 6))
    for documented, said in (
        (softmax, "exp(s) / Σ exp(s)"),
        (softmax_backward, "∂a_j/∂s_i = a_j (δ_ij − a_i)"),
        (numpy_attention, "∂L/∂s = a ∘ (∂L/∂a − Σ a ∘ ∂L/∂a)"),
    ):
        assert said in inspect.getdoc(documented)
    a = softmax(s, s < np.inf)
    np.testing.assert_allclose(a, np.exp(s) / np.exp(s).sum(), **NEAR)
    slopes = a[:, np.newaxis] * (np.eye(6) - a)
    np.testing.assert_allclose(softmax_backward(d_a, a), d_a @ slopes, **NEAR)
    np.testing.assert_allclose(softmax_backward(d_a, a), a * (d_a - (a * d_a).sum()), **NEAR)


def test_gradients_of_weights_are_the_sums_of_their_docstrings() -> None:
    """Of small whole numbers, and so to the bit."""
    rng, T, G = np.random.default_rng(0), 3, 5
    d, e, x, h = (rng.integers(-4, 5, (T, B, n)).astype(float) for n in (G, G, I, H))
    assert "dW = Σ_t Σ_b δ inputᵀ and db = Σ_t Σ_b δ" in inspect.getdoc(parameter_gradients)
    assert "Of W and b in W x + b: Σ d xᵀ and Σ d" in inspect.getdoc(affine_gradients)
    found = parameter_gradients(d, e, LayerTrace(x, h, [])) | affine_gradients("affine", d, x)
    for side, delta, read in (("weight_ih", d, x), ("weight_hh", e, h), ("affine.weight", d, x)):
        assert (found[side] == sum(np.outer(delta[t, b], read[t, b]) for t in range(T) for b in range(B))).all()
        bias = side.replace("weight", "bias")
        assert (found[bias] == sum(delta[t, b] for t in range(T) for b in range(B))).all()


@pytest.mark.parametrize("total, products", [("float32", "float32"), ("float32", "bfloat16")])
def test_products_are_added_as_the_docstring_says(total: str, products: str) -> None:
    assert "total += Σ_t Σ_b d readᵀ" in inspect.getdoc(add_products)
    dice = torch.Generator().manual_seed(0)
    d, read = (torch.randint(-4, 5, (3, B, n), generator=dice) for n in (H, I))
    before = torch.randint(-4, 5, (H, I), generator=dice)
    found = before.to(getattr(torch, total))
    add_products(found, d.to(getattr(torch, products)), read.to(getattr(torch, products)))
    assert (found == before + torch.einsum("tbg,tbi->gi", d, read)).all() and found.dtype == getattr(torch, total)


def test_rounding_is_bounded_as_the_docstring_says() -> None:
    """In bfloat16, where a product of two errors shows; then without rounding, where what a radius leaves shows."""
    text = " ".join((inspect.getdoc(bounds) or "").split())
    u, x, y, e, f, q = BFloat16.unit, 1.75, -2.5, 0.01, 0.02, 0.7
    of_x, of_y = BFloat16(x, e), BFloat16(y, f)
    rounded = {
        "e = Σ eᵢ + γ_{n−1} Σ (|t̂ᵢ| + eᵢ), where γ_k = k u / (1 − k u)": (
            of_x + of_y + of_x,
            2 * e + f + 2 * u / (1 - 2 * u) * (2 * (x + e) - y + f),
        ),
        "e = |x̂| e_y + |ŷ| e_x + e_x e_y + u (|x̂| + e_x)(|ŷ| + e_y)": (
            of_x * of_y,
            x * f - y * e + e * f + u * (x + e) * (-y + f),
        ),
        "(e_x + |x̂/ŷ| e_y) / (|ŷ| − e_y), and rounding adds u of what may come out": (
            of_x / of_y,
            (e + q * f) / (-y - f) + u * (q + (e + q * f) / (-y - f)),
        ),
    }
    functions = {
        "e^e_x − 1 of the result for exp": (of_x.exp(), np.exp(x), np.expm1(e) * np.exp(x)),
        "−ln(1 − e_x/x̂) for ln": (of_x.ln(), np.log(x), -np.log1p(-e / x)),
        "at most e_x for tanh": (of_x.tanh(), np.tanh(x), e),
    }
    for line, (found, value, carried) in functions.items():
        rounded[line] = found, carried + FUNCTION_ULPS * 2 * u * (value + carried)
    for line, (found, said) in rounded.items():
        assert line in text and found.error == pytest.approx(said, rel=1e-12), line


def test_a_radius_leaves_what_the_docstring_says() -> None:
    class Exact(Bounded):
        unit, smallest = 0.0, 0.0

    text = " ".join((inspect.getdoc(bounds) or "").split())
    x, y, e, f, r, s, q = 1.75, -2.5, 0.01, 0.02, 0.03, 0.04, 0.7
    of_x, of_y, d_x, d_y = Exact(x, e, r), Exact(y, f, s), e + r, f + s
    v, t = np.exp(x), np.tanh(x)
    for line, found, error, radius in (
        ("D_x D_y − e_x e_y more; its radius is |x̂| r_y + |ŷ| r_x",
         of_x * of_y, x * f - y * e + d_x * d_y, x * s - y * r),
        ("(D_x + |q| D_y) / |ŷ| · D_y / (|ŷ| − D_y); its radius is (r_x + |q| r_y) / |ŷ|",
         of_x / of_y, (e + q * f) / -y + (d_x + q * d_y) / -y * d_y / (-y - d_y), (r + q * s) / -y),
        ("exp leaves v (e^D − 1 − r)", of_x.exp(), v * (np.expm1(d_x) - r), v * r),
        ("ln leaves −ln(1 − D/x̂) − r/x̂", of_x.ln(), -np.log1p(-d_x / x) - r / x, r / x),
        ("tanh leaves e + ½ · 4/(3√3) · r²", of_x.tanh(), e + 2 / (3 * 3**0.5) * r**2, (1 - t**2) * r),
    ):  # fmt: skip
        assert line in text, line
        assert (found.error, found.radius) == pytest.approx((error, radius), rel=1e-12), line
    assert "|tanh″| ≤ 4/(3√3)" in text
    a = np.linspace(0, 3, 10001)  # near the top, 3e-4 apart, the curve is within 1e-7 of its largest value
    assert (2 * np.tanh(a) * (1 - np.tanh(a) ** 2)).max() == pytest.approx(STEEPEST, rel=1e-6)


def test_errors_travel_along_a_sequence_as_the_docstring_says() -> None:
    """A sequence of one unit, of which every state is rounded to float32."""
    text = inspect.getdoc(sequences) or ""
    assert "ŝ_t − s_t = F(ŝ_{t−1}) − F(s_{t−1}) + η_t = F′(s_{t−1}) (ŝ_{t−1} − s_{t−1}) + ρ_t + η_t," in text
    assert "Σ_k (∂v/∂k) (η_k + ρ_k)" in text
    rng, s, computed, slopes, sources = np.random.default_rng(0), 0.3, 0.3, [], []
    for x in rng.normal(size=6):
        exact, of_computed = np.tanh(1.3 * s + x), np.tanh(1.3 * computed + x)
        rounded, slope = float(np.float32(of_computed)), 1.3 * (1 - exact**2)
        remainder = of_computed - exact - slope * (computed - s)
        slopes.append(slope)
        sources.append(rounded - of_computed + remainder)
        s, computed = exact, rounded
    travelled = sum(np.prod(slopes[k + 1 :]) * source for k, source in enumerate(sources))
    assert abs(computed - s) > 1e-9 and travelled == pytest.approx(computed - s, abs=1e-15)  # some roundings near 1


def test_learning_in_real_time_carries_forward_what_the_docstring_says() -> None:
    """An RNN of one unit: s' = tanh(w x + u s + …), so that J = (1 − s'²) u."""
    assert "P' = J P + ∂s'/∂θ" in inspect.getdoc(real_time_recurrent_learning)
    case = random_layers("rnn", Sizes(T=5, B=1, I=1, H=1))
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, u, *biases = (case.parameters[f"cells.0.{name}"].item() for name in names)
    s, P, gradient = case.inputs["initial.h"].item(), np.zeros(4), np.zeros(4)
    for x, d in zip(case.inputs["x"].ravel(), case.cotangents["d.output"].ravel(), strict=True):
        after = np.tanh(w * x + u * s + sum(biases))
        J, direct = (1 - after**2) * u, (1 - after**2) * np.array([x, s, 1, 1])
        s, P = after, J * P + direct
        gradient += d * P
    gradient += case.cotangents["d.final.h"].item() * P
    found = real_time_recurrent_learning(case)
    np.testing.assert_allclose([found[f"d.cells.0.{name}"].item() for name in names], gradient, **NEAR)


def test_the_optimizers_compute_their_docstrings() -> None:
    rng = np.random.default_rng(0)
    w, g, s = rng.normal(size=5), rng.normal(size=5), rng.random(5)
    for rule in (SGD(0.3), AdaGrad(0.3)):
        parameters = {"w": w.copy()}
        if isinstance(rule, AdaGrad):
            rule.sums["w"] = s
        rule.update(parameters, {"w": g})
        said = evaluated(type(rule), {"w": w, "g": g, "s": s, "lr": 0.3})
        np.testing.assert_allclose(parameters["w"], said["w_next"], **NEAR)


def test_clipping_by_norm_computes_its_docstring() -> None:
    g = np.array([3.0, 4.0])
    for limit in (1.0, 100.0):
        said = evaluated(clip_by_norm, {"norm": 5.0, "limit": limit})
        np.testing.assert_allclose(clip_by_norm({"w": g}, limit)["w"], g * said["factor"], **NEAR)


def test_softmax_cross_entropy_computes_its_docstring() -> None:
    z, target = np.random.default_rng(0).normal(size=(1, 6)), np.array([2])
    text = inspect.getdoc(softmax_cross_entropy)
    assert (
        "p = exp(z) / Σ exp(z)" in text and "L = −mean(log(p[target]))" in text and "(p − onehot(target)) / N" in text
    )
    p = np.exp(z[0]) / np.exp(z[0]).sum()
    loss, gradient = softmax_cross_entropy(z, target)
    np.testing.assert_allclose(loss, -np.mean(np.log(p[target])), **NEAR)
    np.testing.assert_allclose(gradient[0], p - np.eye(6)[2], **NEAR)


@pytest.mark.parametrize("documented", [LanguageModel, LanguageModelTwin])
@pytest.mark.parametrize("embedding_size", [None, 3])
def test_the_language_model_computes_its_docstring(documented: Any, embedding_size: int | None) -> None:
    text = inspect.getdoc(documented)
    assert "x_t = embedding[token_t]        or, without an embedding, onehot(token_t)" in text
    assert "h_t, s_t = recurrent(x_t, s_{t−1})" in text and "z_t = W h_t + b" in text
    model = LanguageModel(5, "lstm", embedding_size, 4).double()
    tokens, state = torch.tensor([[1], [4], [1]]), None
    with torch.no_grad():
        computed, _ = model(tokens)
        p = {name: value.numpy() for name, value in model.state_dict().items()}
        by_hand, _ = LanguageModelTwin(NumpyRecurrent()).forward(p, tokens.numpy())
        for t, token in enumerate(tokens[:, 0]):
            x = model.embedding.weight[token] if embedding_size else torch.eye(5, dtype=torch.float64)[token]
            h, state = model.recurrent(x[None, None], state)
            z = model.head.weight @ h[0, 0] + model.head.bias
            np.testing.assert_allclose((by_hand if documented is LanguageModelTwin else computed)[t, 0], z, **NEAR)


def test_the_twin_of_the_classifier_computes_its_docstring() -> None:
    """As the classifier itself does in tests/models/test_classifier.py."""
    for line in ("x_t = embedding[token_t]", "h_t = recurrent(x)_t", "pooled = Σ_t a_t h_t", "z = W pooled + b"):
        assert line in inspect.getdoc(ClassifierTwin)
    model, tokens = Classifier(5, 3, embedding_size=I, hidden_size=H).double(), [1, 4, 1, 2]
    p = {name: value.numpy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        h, _ = model.recurrent(model.embedding.weight[tokens][:, None])
        _, a = model.attention(h)
        z = model.head.weight @ sum(a[t, 0] * h[t, 0] for t in range(4)) + model.head.bias
    logits, _, _ = ClassifierTwin(NumpyRecurrent(bidirectional=True)).forward(p, np.array(tokens)[:, np.newaxis])
    np.testing.assert_allclose(logits[0], z, **NEAR)


def test_recurrent_computes_its_docstring() -> None:
    assert "h_t = cell(x_t, h_{t−1})" in inspect.getdoc(Recurrent)
    layers = Recurrent("gru", 3, 4).double()
    x, state = torch.randn(3, 2, 3, dtype=torch.float64), layers.cells[0].initial_state(2)
    output, _ = layers(x)
    for t in range(3):
        state = layers.cells[0](x[t], state)
        assert torch.allclose(output[t], state.h, **NEAR)


def test_sampling_draws_with_the_probability_that_its_docstring_gives() -> None:
    logits, temperature = torch.tensor([0.0, 1.0, 2.0]), 0.7
    dice = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw(logits, temperature, dice).view(()) for _ in range(6000)])
    p = np.exp(logits.numpy() / temperature)
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    # Three standard deviations of a share among 6,000 draws: 3 √(¼ / 6000) = 0.02.
    np.testing.assert_allclose(shares, p / p.sum(), rtol=0, atol=0.02)


def attention_equations(documented: Any) -> None:
    text = inspect.getdoc(documented)
    assert "q_t = W_q h_t + b_q,  k_s = W_k h_s,  v_s = W_v h_s + b_v" in text
    assert "a_t = softmax_s(q_t · k_s / √H)  over t − span < s ≤ t" in text and "y_t = h_t + Σ_s a_ts v_s" in text


@pytest.mark.parametrize("span", [1, 3, 100])
def test_causal_attention_computes_its_docstring(span: int) -> None:
    attention_equations(CausalAttention)
    attention_equations(causal_attention)
    module, (T, M) = CausalAttention(H, span).double(), (5, min(span - 1, 2))
    p = {name: value.detach().numpy() for name, value in module.named_parameters()}
    h = np.random.default_rng(0).normal(size=(M + T, B, H))
    y, memory, a = module(torch.tensor(h[M:]), torch.tensor(h[:M]))
    by_hand, memory_by_hand, _ = causal_attention(h[M:], h[:M], p, span)
    for b in range(B):
        q, k, v = (h[:, b] @ p[f"{x}.weight"].T + p.get(f"{x}.bias", 0) for x in ("query", "key", "value"))
        for t in range(M, M + T):
            seen = range(max(0, t - span + 1), t + 1)
            weights = np.exp([q[t] @ k[s] / np.sqrt(H) for s in seen])
            weights /= weights.sum()
            said = h[t, b] + sum(a_ts * v[s] for a_ts, s in zip(weights, seen, strict=True))
            np.testing.assert_allclose(y[t - M, b].detach(), said, **NEAR)
            np.testing.assert_allclose(by_hand[t - M, b], said, **NEAR)
            np.testing.assert_allclose(a[t - M, b, list(seen)].detach(), weights, **NEAR)
            assert a[t - M, b].detach().count_nonzero() == len(seen)
    kept = h[max(0, M + T - span + 1) :]
    assert (memory.numpy() == kept).all() and (memory_by_hand == kept).all()


@pytest.mark.parametrize("score", ["additive", "dot"])
def test_pooling_computes_its_docstring(score: str) -> None:
    for documented in (AttentionPooling, attention_pooling):
        text = inspect.getdoc(documented)
        assert "s_t = v · tanh(W h_t + b)" in text and "s_t = v · h_t" in text
        assert "a = softmax_t(s),  pooled = Σ_t a_t h_t" in text
    module, h = AttentionPooling(H, score).double(), np.random.default_rng(0).normal(size=(5, B, H))
    p = {name: value.detach().numpy() for name, value in module.named_parameters()}
    v = p["vector"]
    inner = [tanh(x @ p["inner.weight"].T + p["inner.bias"]) for x in h] if score == "additive" else h
    s = np.stack([x @ v for x in inner])  # (T, B)
    a = np.exp(s) / np.exp(s).sum(0)
    pooled = sum(a[t][:, np.newaxis] * h[t] for t in range(5))
    for computed, weights in (module(torch.tensor(h)), attention_pooling(h, p)[:2]):
        np.testing.assert_allclose(torch.as_tensor(computed).detach(), pooled, **NEAR)
        np.testing.assert_allclose(torch.as_tensor(weights).detach(), a, **NEAR)


def test_two_directions_compute_their_docstring() -> None:
    assert "y_t = [h_t, cell_reverse(x_t, h_{t+1})]" in inspect.getdoc(Recurrent)
    layers, x = Recurrent("gru", 3, 4, bidirectional=True).double(), torch.randn(3, 2, 3, dtype=torch.float64)
    output, _ = layers(x)
    state = layers.reverse_cells[0].initial_state(2)
    for t in reversed(range(3)):
        state = layers.reverse_cells[0](x[t], state)
        assert torch.allclose(output[t, :, 4:], state.h, **NEAR)


def test_dropout_computes_its_docstring() -> None:
    assert "y = x ∘ m / (1 − p),  m ~ Bernoulli(1 − p)" in inspect.getdoc(Dropout)
    dropout, x = Dropout(0.4), torch.randn(3, 2, 5)
    torch.manual_seed(0)
    m = torch.empty_like(x).bernoulli_(0.6)
    torch.manual_seed(0)
    assert torch.allclose(dropout(x), x * m / 0.6, rtol=1e-6, atol=0)  # a few ULPs of 6e-8


def test_initializations_compute_their_docstring() -> None:
    text = inspect.getdoc(initialize)
    assert "Embeddings are drawn from N(0, 0.1²)" in inspect.getdoc(Classifier)
    for line in ("W ~ N(0, 0.01²), b = 0", "W ~ N(0, 2/n_in), b = 0", "orthonormal rows", "U(−1/√n, 1/√n)", "N(0, 1)"):
        assert line in text
    torch.manual_seed(0)
    for how, expected in (("gaussian", 0.01), ("he", (2 / 64) ** 0.5)):
        model = LanguageModel(50, "gru", 32, 64, initialization=how)
        weights = model.recurrent.cells[0].weight_hh.detach()
        # 12,288 draws: their deviation is within 3 / √(2 · 12288), 2%, of the one they are drawn with
        assert float(weights.std()) == pytest.approx(expected, rel=0.02) and not model.recurrent.cells[0].bias_ih.any()
    model = LanguageModel(50, "gru", 32, 64, initialization="orthogonal")
    for block in model.recurrent.cells[0].weight_hh.detach().double().split(64):
        assert torch.allclose(block @ block.T, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-5)  # float32's QR
    assert LanguageModel(50, "gru", 32, 64).recurrent.cells[0].weight_hh.detach().abs().max() <= 64**-0.5
    by_he = LanguageModel(50, "gru", 32, 64, initialization="he")
    plain, of_classifier = LanguageModel(50, "gru", 32, 64), Classifier(50, 3, embedding_size=32)
    for drawn, deviation in ((plain, 1.0), (by_he, 1.0), (of_classifier, 0.1)):
        # 1,600 draws: within 3 / √(2 · 1600), 5.3%
        assert float(drawn.embedding.weight.detach().std()) == pytest.approx(deviation, rel=0.053)
    with pytest.raises(ValueError, match="choose one of uniform, gaussian, he, orthogonal"):
        initialize(model, "xavier")


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_weighted_cross_entropy_computes_its_docstring(smoothing: float) -> None:
    text = inspect.getdoc(weighted_cross_entropy)
    assert "q = w ∘ ((1 − ε) onehot(label) + ε / C)" in text and "L = −Σ q log(p) / Σ w[label]" in text
    assert "∂L/∂z = (Σ_c q_c · p − q) / Σ w[label],  p = softmax(z)" in text
    rng = np.random.default_rng(0)
    z, labels, w = rng.normal(size=(4, 3)), np.array([2, 0, 1, 2]), np.array([0.5, 1.0, 3.0])
    loss, gradient = weighted_cross_entropy(z, labels, w, smoothing)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    q = w * ((1 - smoothing) * np.eye(3)[labels] + smoothing / 3)
    np.testing.assert_allclose(loss, -(q * np.log(p)).sum() / w[labels].sum(), **NEAR)
    np.testing.assert_allclose(gradient, (q.sum(1, keepdims=True) * p - q) / w[labels].sum(), **NEAR)
    leaf = torch.tensor(z, requires_grad=True)
    torch.nn.functional.cross_entropy(leaf, torch.tensor(labels), torch.tensor(w), label_smoothing=smoothing).backward()
    np.testing.assert_allclose(gradient, leaf.grad, **NEAR)


def displays_an_equation(node: ast.AST) -> bool:
    """Whether a line of its docstring, or of one within it, begins with an equation."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    within = [node] if isinstance(node, ast.Module) else ast.walk(node)
    texts = [ast.get_docstring(each) or "" for each in within if isinstance(each, documented)]
    return any(re.search(r"^ *[^\s=`]+ = ", text, re.MULTILINE) for text in texts)


def test_no_equation_in_a_docstring_goes_without_a_test() -> None:
    """Whatever displays one is imported here, or named with the test that evaluates it."""
    elsewhere = {"models.classifier.Tally"}  # tests/models/test_classifier.py
    imported = [*globals().values(), *STEPS.values(), *torch_cells.CELLS.values(), *FUSED_STEPS.values()]
    known = {of.__name__ if inspect.ismodule(of) else f"{of.__module__}.{of.__name__}"
             for of in imported if inspect.ismodule(of) or inspect.isclass(of) or inspect.isfunction(of)}  # fmt: skip
    root, found = Path(__file__).parents[1], set()
    parts = (root / part for part in ("models", "bptt", "datamodules", "benchmarks"))
    for path in chain(root.glob("*.py"), *(part.rglob("*.py") for part in parts)):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {f"{module}.{getattr(node, 'name', '')}".rstrip(".")
                  for node in (tree, *tree.body) if displays_an_equation(node)}  # fmt: skip
    assert "models.cells.LSTMCell" in found and found - known == elsewhere
