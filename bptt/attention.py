"""Attention over the states of a sequence, forward and backward: the twin of `models/attention.py`, under its names.

The gradient of a softmax a of scores s is ∂L/∂s = a ∘ (∂L/∂a − Σ a ∘ ∂L/∂a): each weight's own part, less what all
others lose to it. Letters: T steps, B batch, H size of a state, M remembered states, S = M + T of them in all.
"""

from typing import NamedTuple

import numpy as np

from bptt.arithmetic import TANH, Array, constant, exp
from bptt.cells import Parameters
from bptt.layers import Gradients, where_real


def softmax(scores: Array, allowed: Array) -> Array:
    """exp(s) / Σ exp(s) over the last axis, among those allowed; the others are zero."""
    lowest = scores.min(axis=-1, keepdims=True)
    shifted = scores - np.where(allowed, scores, lowest).max(axis=-1, keepdims=True)
    exponentials = np.where(allowed, exp(np.where(allowed, shifted, shifted * 0)), shifted * 0)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def softmax_backward(d_weights: Array, weights: Array) -> Array:
    """∂L/∂s from ∂L/∂a: ∂a_j/∂s_i = a_j (δ_ij − a_i). What was not allowed has a = 0, and so no gradient."""
    return weights * (d_weights - (weights * d_weights).sum(axis=-1, keepdims=True))


class AttentionTrace(NamedTuple):
    """What causal attention leaves for its backward pass; the batch comes first."""

    seen: Array  # (B, S, H)
    q: Array  # (B, T, H)
    k: Array  # (B, S, H)
    v: Array  # (B, S, H)
    weights: Array  # (B, T, S)


def causal_attention(h: Array, memory: Array, p: Parameters, span: int) -> tuple[Array, Array, AttentionTrace]:
    """Each step adds to its state what it finds among the last `span` states, its own among them.

        q_t = W_q h_t + b_q,  k_s = W_k h_s,  v_s = W_v h_s + b_v
        a_t = softmax_s(q_t · k_s / √H)  over t − span < s ≤ t
        y_t = h_t + Σ_s a_ts v_s

    Shapes: h and y (T, B, H), memory (M, B, H). Returns y, the memory for the next window, and the trace.
    """
    seen = np.concatenate([memory, h])  # (S, B, H)
    own, s = np.arange(len(memory), len(seen))[:, np.newaxis], np.arange(len(seen))
    in_sight = (own - span < s) & (s <= own)  # (T, S)
    all_seen, mine = seen.swapaxes(0, 1), h.swapaxes(0, 1)  # (B, ·, H)
    q = mine @ p["query.weight"].T + p["query.bias"]
    k = all_seen @ p["key.weight"].T  # a bias would add the same to all scores of a query
    v = all_seen @ p["value.weight"].T + p["value.bias"]
    scores = q @ k.swapaxes(1, 2) * constant(h.shape[-1] ** -0.5, h)  # (B, T, S)
    weights = softmax(scores, in_sight)
    y = h + (weights @ v).swapaxes(0, 1)
    return y, seen[max(0, len(seen) - span + 1) :], AttentionTrace(all_seen, q, k, v, weights)


def causal_attention_backward(d_y: Array, trace: AttentionTrace, p: Parameters) -> tuple[Array, Array, Gradients]:
    """∂L/∂y (T, B, H) in; ∂L/∂h (T, B, H), ∂L/∂memory (M, B, H) and ∂L/∂parameters out."""
    seen, q, k, v, weights = trace
    T, d = len(d_y), d_y.swapaxes(0, 1)  # (B, T, H)
    d_v = weights.swapaxes(1, 2) @ d  # ∂y_t/∂v_s = a_ts
    d_scores = softmax_backward(d @ v.swapaxes(1, 2), weights) * constant(q.shape[-1] ** -0.5, q)  # ∂y_t/∂a_ts = v_s
    d_q, d_k = d_scores @ k, d_scores.swapaxes(1, 2) @ q  # of q_t · k_s
    d_seen = d_k @ p["key.weight"] + d_v @ p["value.weight"]  # (B, S, H)
    d_h = d + d_seen[:, -T:] + d_q @ p["query.weight"]  # h_t counts by itself, as one that is seen, and as a query
    gradients = affine_gradients("query", d_q, seen[:, -T:]) | affine_gradients("value", d_v, seen)
    gradients["key.weight"] = np.tensordot(d_k, seen, ((0, 1), (0, 1)))
    return d_h.swapaxes(0, 1), d_seen[:, :-T].swapaxes(0, 1), gradients


def affine_gradients(name: str, d: Array, read: Array) -> Gradients:
    """Of W and b in W x + b: Σ d xᵀ and Σ d, over all axes but the last."""
    axes = tuple(range(d.ndim - 1))
    return {f"{name}.weight": np.tensordot(d, read, (axes, axes)), f"{name}.bias": d.sum(axes)}


class PoolingTrace(NamedTuple):
    """What pooling leaves for its backward pass."""

    h: Array  # (T, B, H)
    a: Array | None  # (T, B, H): what stands inside tanh, if there is one
    said: Array  # (T, B, H): what v is multiplied with
    weights: Array  # (T, B)


def attention_pooling(h: Array, p: Parameters, lengths: Array | None = None) -> tuple[Array, Array, PoolingTrace]:
    """One vector from a sequence: a mean of its states, weighted by what each has to say.

        additive:  s_t = v · tanh(W h_t + b)
        dot:       s_t = v · h_t
        a = softmax_t(s),  pooled = Σ_t a_t h_t

    Shapes: h (T, B, H), lengths (B), pooled (B, H). Returns pooled, the weights (T, B) and the trace. Parameters: v is
    `vector` (H); `inner.weight` (H, H) and `inner.bias` (H) are W and b, and where they are, the score is additive.
    """
    T, B = h.shape[:2]
    allowed = np.arange(T)[:, np.newaxis] < (np.full(B, T) if lengths is None else lengths)  # (T, B)
    h = where_real(allowed[..., np.newaxis], h)
    a = h @ p["inner.weight"].T + p["inner.bias"] if "inner.weight" in p else None
    said = h if a is None else TANH(a)
    weights = softmax((said @ p["vector"]).T, allowed.T).T
    return (weights[..., np.newaxis] * h).sum(0), weights, PoolingTrace(h, a, said, weights)


def attention_pooling_backward(d_pooled: Array, trace: PoolingTrace, p: Parameters) -> tuple[Array, Gradients]:
    """∂L/∂pooled (B, H) in; ∂L/∂h (T, B, H) and ∂L/∂parameters out."""
    h, a, said, weights = trace
    d_scores = softmax_backward((h * d_pooled).sum(-1).T, weights.T).T  # (T, B): ∂pooled/∂a_t = h_t
    d_h = weights[..., np.newaxis] * d_pooled  # ∂pooled/∂h_t = a_t
    gradients = {"vector": (d_scores[..., np.newaxis] * said).sum((0, 1))}  # ∂s_t/∂v = tanh(…) or h_t
    d_said = d_scores[..., np.newaxis] * p["vector"]
    if a is None:
        return d_h + d_said, gradients
    d_a = d_said * TANH.derivative(a, said)
    return d_h + d_a @ p["inner.weight"], gradients | affine_gradients("inner", d_a, h)
