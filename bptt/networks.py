"""Whole models, forward and backward: the twins of the Lightning modules, under the names of their `state_dict()`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import Array
from bptt.attention import (
    AttentionTrace,
    PoolingTrace,
    attention_pooling,
    attention_pooling_backward,
    causal_attention,
    causal_attention_backward,
)
from bptt.cells import Parameters
from bptt.layers import Gradients, LayerTrace, Recurrent, RecurrentGradients, product
from bptt.losses import per_step_cross_entropy


class AttentiveState(NamedTuple):
    """The state of a language model with attention."""

    recurrent: Any  # (L, B, H) each
    memory: Array  # (M, B, H): the last states, which the next steps look back at


class Trace(NamedTuple):
    """What a language model's forward pass leaves for its backward pass."""

    tokens: Array  # (T, B)
    hidden: Array  # (T, B, H): what the head reads
    layers: list[LayerTrace]
    final_state: Any  # (L, B, H) each, and with attention the memory
    attention: AttentionTrace | None
    mask: Array | None  # (T, B, H) or (1, B, H): what the last layer's output was multiplied by (dropout)


class LanguageModelGradients(NamedTuple):
    """∂L/∂ everything that a language model read."""

    parameters: Gradients
    recurrent: RecurrentGradients  # its `x` is ∂L/∂ the embedded or one-hot input, its `initial_state` what it says
    memory: Array | None  # (M, B, H): ∂L/∂ the remembered states


@dataclass(frozen=True)
class LanguageModel:
    """Symbols in, logits of the next symbol out: embedding or one-hot, recurrent layers, one affine head.

        x_t = embedding[token_t]        or, without an embedding, onehot(token_t)
        h_t, s_t = recurrent(x_t, s_{t−1})
        z_t = W h_t + b

    With attention, each h_t looks back at `attention_span` of them before it is read (see `bptt/attention.py`). If the
    weights are tied, W is the embedding.

    Letters: T steps, B batch, V vocabulary, E embedding, H hidden size, L layers. Parameters carry the names of the
    torch model's `named_parameters()`: `embedding.weight` (V, E), `recurrent.cells.0.weight_ih` …,
    `attention.query.weight` …, `head.weight` (V, H), `head.bias` (V). Whether there is an embedding, and whether it is
    tied to the head, which then has no weight of its own, is read off them.
    """

    recurrent: Recurrent
    loss: str = "every"
    attention_span: int = 0

    def initial_state(self, batch_size: int, p: Parameters) -> Any:
        """Zeros (L, B, H) each, and no memory."""
        state = self.recurrent.initial_state(batch_size, within("recurrent.", p))
        return AttentiveState(state, state.h[:0]) if self.attention_span else state

    def forward(
        self, p: Parameters, tokens: Array, state: Any = None, masks: Sequence[Array] = ()
    ) -> tuple[Array, Trace]:
        """tokens (T, B) in, logits (T, B, V) out; the trace holds the final state. Where dropout acts, `masks` are what
        it multiplies each layer's output by."""
        state = self.initial_state(tokens.shape[1], p) if state is None else state
        before = state.recurrent if self.attention_span else state
        one_hot = np.eye(len(p["head.bias"]), dtype=p["head.bias"].dtype)  # (V, V)
        x = p.get("embedding.weight", one_hot)[tokens]  # (T, B, E)
        hidden, final, layers = self.recurrent.forward(within("recurrent.", p), x, before, masks=masks[:-1])
        mask = masks[-1] if masks else None
        hidden = hidden if mask is None else hidden * mask
        attention = None
        if self.attention_span:
            of_attention = within("attention.", p)
            hidden, memory, attention = causal_attention(hidden, state.memory, of_attention, self.attention_span)
            final = AttentiveState(final, memory)
        logits = product(hidden, p[head_of(p)].T) + p["head.bias"]
        return logits, Trace(tokens, hidden, layers, final, attention, mask)

    def backward(self, p: Parameters, d_logits: Array, trace: Trace, d_state: Any = None) -> LanguageModelGradients:
        """∂L/∂logits (T, B, V) in and, if it counts too, ∂L/∂(final recurrent state) (L, B, H)."""
        of_recurrent = within("recurrent.", p)
        d_state = self.recurrent.initial_state(trace.tokens.shape[1], of_recurrent) if d_state is None else d_state
        d_hidden, d_memory = product(d_logits, p[head_of(p)]), None  # ∂z/∂h = W
        parameters: Gradients = {}
        if trace.attention is not None:
            d_hidden, d_memory, of_attention = causal_attention_backward(
                d_hidden, trace.attention, within("attention.", p)
            )
            parameters |= prefixed("attention.", of_attention)
        d_hidden = d_hidden if trace.mask is None else d_hidden * trace.mask
        d = self.recurrent.backward(of_recurrent, d_hidden, d_state, trace.layers)
        parameters |= prefixed("recurrent.", d.parameters)
        if "embedding.weight" in p:
            parameters["embedding.weight"] = embedding_gradient(p["embedding.weight"], trace.tokens, d.x)
        of_head = np.tensordot(d_logits, trace.hidden, ((0, 1), (0, 1)))
        parameters[head_of(p)] = parameters.get(head_of(p), 0) + of_head  # tied weights are used twice
        parameters["head.bias"] = d_logits.sum((0, 1))
        return LanguageModelGradients(parameters, d, d_memory)

    def by_step(self, d: LanguageModelGradients, trace: Trace) -> Gradients:
        """dL/dW = Σ_t: what each step's use of every recurrent parameter adds to its gradient, (T, ...) each."""
        return prefixed("recurrent.", self.recurrent.by_step(d.recurrent, trace.layers))

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


class ClassifierTrace(NamedTuple):
    """What a classifier's forward pass leaves for its backward pass."""

    tokens: Array  # (T, B)
    layers: list[LayerTrace]
    pooling: PoolingTrace
    pooled: Array  # (B, D·H): what the head reads
    x_mask: Array | None  # what the embedded input was multiplied by (dropout)
    pooled_mask: Array | None  # and what the pooled state was


@dataclass(frozen=True)
class Classifier:
    """Sequences of any length in, logits of their classes out: embedding, recurrent layers, attention pooling, head.

        x_t = embedding[token_t]
        h_t = recurrent(x)_t
        pooled = Σ_t a_t h_t                (see `bptt/attention.py`)
        z = W pooled + b

    Letters: T steps, B batch, V vocabulary, E embedding, D·H states of all directions, C classes. Parameters carry the
    names of the torch model's: `embedding.weight` (V, E), `recurrent.cells.0.weight_ih` …, `attention.vector` …,
    `head.weight` (C, D·H), `head.bias` (C).
    """

    recurrent: Recurrent

    def forward(
        self, p: Parameters, tokens: Array, lengths: Array | None = None, masks: Sequence[Array] = ()
    ) -> tuple[Array, Array, ClassifierTrace]:
        """tokens (T, B) and lengths (B) in; logits (B, C), the pooling's weights (T, B) and the trace out. Where
        dropout acts, `masks` are those of the embedded input, of each layer's output but the last, and of pooled."""
        x_mask, *between, pooled_mask = masks or (None, None)
        x = p["embedding.weight"][tokens]  # (T, B, E)
        x = x if x_mask is None else x * x_mask
        h, _, layers = self.recurrent.forward(within("recurrent.", p), x, None, lengths, between)
        pooled, weights, pooling = attention_pooling(h, within("attention.", p), lengths)
        pooled = pooled if pooled_mask is None else pooled * pooled_mask
        logits = pooled @ p["head.weight"].T + p["head.bias"]
        return logits, weights, ClassifierTrace(tokens, layers, pooling, pooled, x_mask, pooled_mask)

    def backward(self, p: Parameters, d_logits: Array, trace: ClassifierTrace) -> Gradients:
        """∂L/∂logits (B, C) in; every parameter's gradient out."""
        d_pooled = d_logits @ p["head.weight"]
        d_pooled = d_pooled if trace.pooled_mask is None else d_pooled * trace.pooled_mask
        d_h, of_pooling = attention_pooling_backward(d_pooled, trace.pooling, within("attention.", p))
        of_recurrent = within("recurrent.", p)
        nothing = self.recurrent.initial_state(len(d_logits), of_recurrent)
        d = self.recurrent.backward(of_recurrent, d_h, nothing, trace.layers)
        d_x = d.x if trace.x_mask is None else d.x * trace.x_mask
        return prefixed("recurrent.", d.parameters) | prefixed("attention.", of_pooling) | {
            "embedding.weight": embedding_gradient(p["embedding.weight"], trace.tokens, d_x),
            "head.weight": d_logits.T @ trace.pooled,
            "head.bias": d_logits.sum(0),
        }  # fmt: skip


def embedding_gradient(embedding: Array, tokens: Array, d_x: Array) -> Array:
    """∂L/∂embedding (V, E) from ∂L/∂ what was looked up (T, B, E)."""
    gradient = np.zeros_like(embedding)
    np.add.at(gradient, tokens, d_x)  # a symbol that is met twice adds up twice
    return gradient


def head_of(p: Parameters) -> str:
    """The head's weight is its own, or the embedding's."""
    return "head.weight" if "head.weight" in p else "embedding.weight"


def within(prefix: str, p: Parameters) -> Parameters:
    """The parameters of one part of a model, under the names that the part itself uses."""
    return {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}


def prefixed(prefix: str, gradients: Gradients) -> Gradients:
    return {prefix + name: gradient for name, gradient in gradients.items()}
