"""What the last layer's logits are worth, and the gradient that starts the way back."""

import numpy as np

from bptt.arithmetic import Array, constant, exp, log


def softmax_cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """The mean cross entropy between softmax(logits) and the targets, in nats per symbol, and its gradient.

        p = exp(z) / Σ exp(z)
        L = −mean(log(p[target]))
        ∂L/∂z = (p − onehot(target)) / N

    Shapes: logits z (..., V), targets (...) with N entries, gradient (..., V). The maximum is subtracted from z first,
    which leaves p as it is and keeps exp from overflowing.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exponentials = exp(shifted)
    total = exponentials.sum(axis=-1, keepdims=True)
    hit = targets[..., np.newaxis]
    log_p = np.take_along_axis(shifted, hit, axis=-1) - log(total)
    d_logits = exponentials / total
    np.put_along_axis(d_logits, hit, np.take_along_axis(d_logits, hit, axis=-1) - 1, axis=-1)
    return -log_p.sum() / targets.size, d_logits / targets.size


def per_step_cross_entropy(logits: Array, targets: Array, loss: str = "every") -> tuple[Array, Array]:
    """`softmax_cross_entropy` over every step (many-to-many) or over the last one alone (many-to-one).

    Shapes: logits (T, B, V), targets (T, B), gradient (T, B, V). Raises ValueError for another name of a loss.
    """
    if loss == "every":
        return softmax_cross_entropy(logits, targets)
    if loss != "last":
        raise ValueError(f"loss is {loss!r}: choose 'every' or 'last'")
    value, d_last = softmax_cross_entropy(logits[-1], targets[-1])
    return value, np.concatenate([logits[:-1] * 0, d_last[np.newaxis]])


def weighted_cross_entropy(logits: Array, labels: Array, weights: Array, smoothing: float) -> tuple[Array, Array]:
    """The cross entropy of classes that count differently, with smoothed labels (Szegedy et al., 2016).

        q = w ∘ ((1 − ε) onehot(label) + ε / C)
        L = −Σ q log(p) / Σ w[label]
        ∂L/∂z = (Σ_c q_c · p − q) / Σ w[label],  p = softmax(z)

    Shapes: logits z (B, C), labels (B), weights w (C), gradient (B, C); smoothing is ε, from 0 to 1. L is summed over
    the batch, too.
    """
    one = constant(1.0, logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exponentials = exp(shifted)
    total = exponentials.sum(axis=-1, keepdims=True)
    onehot = (np.arange(len(weights)) == labels[:, np.newaxis]) * one  # (B, C)
    q = weights * ((1 - smoothing) * onehot + smoothing / len(weights))
    scale = weights[labels].sum()
    d_logits = q.sum(axis=-1, keepdims=True) * (exponentials / total) - q
    return -(q * (shifted - log(total))).sum() / scale, d_logits / scale
