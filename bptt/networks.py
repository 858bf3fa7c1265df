"""Whole models, forward and backward: the twins of the Lightning modules, under the names of their `state_dict()`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import Parameters
from bptt.layers import Gradients, LayerTrace, Recurrent, RecurrentGradients
from bptt.losses import per_step_cross_entropy


class Trace(NamedTuple):
    """What a language model's forward pass leaves for its backward pass."""

    tokens: Array  # (T, B)
    hidden: Array  # (T, B, H): what the head reads
    layers: list[LayerTrace]
    final_state: Any  # (L, B, H) each


class LanguageModelGradients(NamedTuple):
    """∂L/∂ everything that a language model read."""

    parameters: Gradients
    recurrent: RecurrentGradients  # its `x` is ∂L/∂ the embedded or one-hot input, its `initial_state` what it says


@dataclass(frozen=True)
class LanguageModel:
    """Symbols in, logits of the next symbol out: embedding or one-hot, recurrent layers, one affine head.

        x_t = embedding[token_t]        or, without an embedding, onehot(token_t)
        h_t, s_t = recurrent(x_t, s_{t−1})
        z_t = W h_t + b

    Letters: T steps, B batch, V vocabulary, E embedding, H hidden size, L layers. Parameters carry the names of the
    torch model's `state_dict()`: `embedding.weight` (V, E), `recurrent.cells.0.weight_ih` …, `head.weight` (V, H),
    `head.bias` (V). Whether there is an embedding is read off them.
    """

    recurrent: Recurrent
    loss: str = "every"

    def forward(self, p: Parameters, tokens: Array, state: Any = None) -> tuple[Array, Trace]:
        """tokens (T, B) in, logits (T, B, V) out; the trace holds the final state."""
        one_hot = np.eye(len(p["head.bias"]), dtype=p["head.bias"].dtype)  # (V, V)
        x = p.get("embedding.weight", one_hot)[tokens]  # (T, B, E)
        hidden, final_state, layers = self.recurrent.forward(of_recurrent(p), x, state)
        logits = hidden @ p["head.weight"].T + p["head.bias"]
        return logits, Trace(tokens, hidden, layers, final_state)

    def backward(self, p: Parameters, d_logits: Array, trace: Trace, d_state: Any = None) -> LanguageModelGradients:
        """∂L/∂logits (T, B, V) and, if the final state counts too, ∂L/∂(final state) (L, B, H) in."""
        d_state = self.recurrent.initial_state(trace.tokens.shape[1], of_recurrent(p)) if d_state is None else d_state
        d_hidden = d_logits @ p["head.weight"]  # ∂z/∂h = W
        d = self.recurrent.backward(of_recurrent(p), d_hidden, d_state, trace.layers)
        parameters = {f"recurrent.{name}": gradient for name, gradient in d.parameters.items()}
        parameters["head.weight"] = np.tensordot(d_logits, trace.hidden, ((0, 1), (0, 1)))
        parameters["head.bias"] = d_logits.sum((0, 1))
        if "embedding.weight" in p:
            parameters["embedding.weight"] = np.zeros_like(p["embedding.weight"])
            np.add.at(parameters["embedding.weight"], trace.tokens, d.x)  # a symbol met twice adds up twice
        return LanguageModelGradients(parameters, d)

    def by_step(self, d: LanguageModelGradients, trace: Trace) -> Gradients:
        """dL/dW = Σ_t: what each step's use of every recurrent parameter adds to its gradient, (T, ...) each."""
        by_step = self.recurrent.by_step(d.recurrent, trace.layers)
        return {f"recurrent.{name}": parts for name, parts in by_step.items()}

    def by_loss_term(self, p: Parameters, d_logits: Array, trace: Trace) -> Iterator[Gradients]:
        """dL/dW = Σ_t dL_t/dW: for each step, every parameter's gradient of that step's term of the loss alone."""
        for t in range(len(d_logits)):
            d_term = d_logits * 0
            d_term[t] = d_logits[t]
            yield self.backward(p, d_term, trace).parameters

    def loss_and_gradients(
        self, p: Parameters, tokens: Array, targets: Array, state: Any = None
    ) -> tuple[Array, LanguageModelGradients, Any]:
        """The loss in nats per symbol, its gradients, and the state to carry into the next window."""
        logits, trace = self.forward(p, tokens, state)
        loss, d_logits = per_step_cross_entropy(logits, targets, self.loss)
        return loss, self.backward(p, d_logits, trace), trace.final_state


def of_recurrent(p: Parameters) -> Parameters:
    """The parameters of the recurrent layers alone, under the names that those use."""
    return {name.removeprefix("recurrent."): value for name, value in p.items() if name.startswith("recurrent.")}
