"""`bptt/` against the loop over columns that min-char-rnn made known: one window of an RNN language model on one-hot
symbols, forward and back, in float64. The loop reads one stream; it reads a batch as so many streams, one by one."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.pairs import compare
from bptt.arithmetic import Array
from bptt.cells import Parameters
from bptt.layers import Gradients, Recurrent
from bptt.networks import LanguageModel

PAIRS = 200
SIZES = [(25, 1, 100, 65), (25, 16, 100, 65)]  # T, B, H, V
MODEL = LanguageModel(Recurrent("rnn"))


def rows(pairs: int) -> Iterator[dict[str, Any]]:
    for T, B, H, V in SIZES:
        p, (tokens, targets) = parameters(H, V), np.random.default_rng(1).integers(V, size=(2, T, B))
        found = compare(
            lambda p=p, x=tokens, y=targets: MODEL.loss_and_gradients(p, x, y),  # type: ignore[misc]
            lambda p=p, x=tokens, y=targets: by_columns(p, x, y),  # type: ignore[misc]
            pairs,
        )
        what = {"cell": "rnn", "T": T, "B": B, "H": H, "V": V, "against": "a loop over columns", "unit": "ms"}
        yield {**what, **asdict(found.scaled(1e3)), "goal": 3.0}


def parameters(H: int, V: int) -> Gradients:
    shapes = {"weight_ih": (H, V), "weight_hh": (H, H), "bias_ih": (H,), "bias_hh": (H,)}
    named = {f"recurrent.cells.0.{name}": shape for name, shape in shapes.items()}
    draw = np.random.default_rng(0).normal
    return {name: draw(0, 0.1, shape) for name, shape in (named | {"head.weight": (V, H), "head.bias": (V,)}).items()}


def by_columns(p: Parameters, tokens: Array, targets: Array) -> tuple[float, Gradients]:
    """The mean loss in nats per symbol and its gradients, from (T, B) each."""
    streams = [one_stream(p, *stream) for stream in zip(tokens.T, targets.T, strict=True)]
    mean = {name: np.add.reduce([gradients[name] for _, gradients in streams]) / tokens.size for name in p}
    return sum(loss for loss, _ in streams) / tokens.size, mean


def one_stream(p: Parameters, tokens: Array, targets: Array) -> tuple[float, Gradients]:
    """Summed over its T steps, from zeros. States are columns (H, 1), symbols columns of zeros and a one (V, 1)."""
    W_x, W_h, W_y = p["recurrent.cells.0.weight_ih"], p["recurrent.cells.0.weight_hh"], p["head.weight"]
    b_h = (p["recurrent.cells.0.bias_ih"] + p["recurrent.cells.0.bias_hh"])[:, np.newaxis]
    b_y, loss = p["head.bias"][:, np.newaxis], 0.0
    xs, hs, predictions = [], [np.zeros_like(b_h)], []
    for token, target in zip(tokens, targets, strict=True):
        x = np.zeros((W_x.shape[1], 1))
        x[token] = 1
        h = np.tanh(np.dot(W_x, x) + np.dot(W_h, hs[-1]) + b_h)
        e = np.exp(np.dot(W_y, h) + b_y)
        prediction = e / np.sum(e)
        loss -= np.log(prediction[target, 0])
        xs.append(x)
        hs.append(h)
        predictions.append(prediction)
    dW_x, dW_h, dW_y, db_h, db_y = (np.zeros_like(of) for of in (W_x, W_h, W_y, b_h, b_y))
    dh_later = np.zeros_like(b_h)
    for t in reversed(range(len(tokens))):
        dy = predictions[t].copy()
        dy[targets[t]] -= 1
        dW_y += np.dot(dy, hs[t + 1].T)
        db_y += dy
        da = (1 - hs[t + 1] * hs[t + 1]) * (np.dot(W_y.T, dy) + dh_later)
        dW_x += np.dot(da, xs[t].T)
        dW_h += np.dot(da, hs[t].T)
        db_h += da
        dh_later = np.dot(W_h.T, da)
    of_layer = {"weight_ih": dW_x, "weight_hh": dW_h, "bias_ih": db_h[:, 0], "bias_hh": db_h[:, 0]}
    named = {f"recurrent.cells.0.{name}": gradient for name, gradient in of_layer.items()}
    return loss, named | {"head.weight": dW_y, "head.bias": db_y[:, 0]}
