"""Every equation in a docstring is what the code computes: these tests evaluate the text itself."""

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch

from bptt import cells as numpy_cells
from bptt.arithmetic import sigmoid, tanh
from bptt.attention import attention_pooling, causal_attention
from bptt.layers import Recurrent as NumpyRecurrent
from bptt.losses import softmax_cross_entropy, weighted_cross_entropy
from bptt.networks import LanguageModel as LanguageModelTwin
from bptt.optimizers import SGD, AdaGrad, clip_by_norm
from models import cells as torch_cells
from models.attention import AttentionPooling, CausalAttention
from models.initialization import initialize
from models.language_model import LanguageModel
from models.recurrent import Dropout, Recurrent
from models.sampling import draw

STEPS = {"rnn": numpy_cells.rnn_step, "gru": numpy_cells.gru_step, "lstm": numpy_cells.lstm_step}
B, I, H = 2, 3, 4
NEAR = {"rtol": 0, "atol": 1e-14}  # values near 1, a dozen roundings: some 50 ULPs are plenty


def equations(documented: Any) -> list[tuple[str, str]]:
    """The lines `name = expression` of a docstring, as Python: products of matrices, primes, ∘, −, √."""
    found = re.findall(r"^ *(\w+'?) = (.+)$", inspect.getdoc(documented) or "", re.MULTILINE)
    assert found, f"no equation in the docstring of {documented}"
    return [(as_python(name), as_python(expression)) for name, expression in found]


def as_python(text: str) -> str:
    text = re.sub(r"(W_\w+) (\w+)", r"(\2 @ \1.T)", text).replace("∘", "*").replace("−", "-").replace("'", "_next")
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
    for line in ("W ~ N(0, 0.01²), b = 0", "W ~ N(0, 2/n_in), b = 0", "orthonormal rows", "U(−1/√n, 1/√n)"):
        assert line in text
    for how, expected in (("gaussian", 0.01), ("he", (2 / 64) ** 0.5)):
        model = LanguageModel(50, "gru", 32, 64, initialization=how)
        weights = model.recurrent.cells[0].weight_hh.detach()
        # 12,288 draws: their deviation is within 3 / √(2 · 12288), 2%, of the one they are drawn with
        assert float(weights.std()) == pytest.approx(expected, rel=0.02) and not model.recurrent.cells[0].bias_ih.any()
    model = LanguageModel(50, "gru", 32, 64, initialization="orthogonal")
    for block in model.recurrent.cells[0].weight_hh.detach().double().split(64):
        assert torch.allclose(block @ block.T, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-5)  # float32's QR
    assert LanguageModel(50, "gru", 32, 64).recurrent.cells[0].weight_hh.detach().abs().max() <= 64**-0.5
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
