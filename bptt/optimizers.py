"""Gradient clipping, SGD and AdaGrad, defined as torch defines them, and a plain training loop around them.

Each update works in place on the dictionary of parameters that it is given.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from bptt.arithmetic import Array
from bptt.layers import Gradients
from bptt.networks import LanguageModel


def clip_by_value(gradients: Gradients, limit: float) -> Gradients:
    """Every entry brought into [−limit, limit]. Raises ValueError where one is not finite."""
    refuse_nonfinite(gradients)
    return {name: np.clip(g, -limit, limit) for name, g in gradients.items()}


def clip_by_norm(gradients: Gradients, limit: float) -> Gradients:
    """All gradients scaled by one factor that brings their common length down to the limit (Pascanu et al., 2013).

        factor = min(1, limit / (norm + 10⁻⁶))

    Raises ValueError where an entry is not finite: a NaN norm would slip through the comparison.
    """
    refuse_nonfinite(gradients)
    norm = np.sqrt(sum((g * g).sum() for g in gradients.values()))
    factor = min(1.0, limit / (norm + 1e-6))
    return {name: g * factor for name, g in gradients.items()}


def refuse_nonfinite(gradients: Gradients) -> None:
    for name, gradient in gradients.items():
        if not np.isfinite(gradient).all():
            raise ValueError(f"the gradient of {name} is not finite")


class Optimizer(Protocol):
    def update(self, parameters: Gradients, gradients: Gradients) -> None: ...


class SGD:
    """Stochastic gradient descent.

    w' = w − lr g
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def update(self, parameters: Gradients, gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            parameters[name] -= self.learning_rate * gradient


class AdaGrad:
    """Steps that shrink with the gradients seen so far (Duchi et al., 2011).

    s' = s + g²
    w' = w − lr g / (√s' + 10⁻¹⁰)
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.sums: Gradients = {}

    def update(self, parameters: Gradients, gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            self.sums[name] = self.sums.get(name, 0) + gradient * gradient
            parameters[name] -= self.learning_rate * gradient / (np.sqrt(self.sums[name]) + 1e-10)


def train(
    model: LanguageModel,
    parameters: Gradients,
    windows: Iterable[tuple[Array, Array]],
    optimizer: Optimizer,
    clip_value: float | None = None,
    clip_norm: float | None = None,
) -> Iterator[Array]:
    """Truncated backpropagation through time: one update for each window of (tokens, targets), both (T, B).

    The windows follow each other in the text, so each starts from the state that the one before ended with; gradients
    stop at the border. Yields each window's loss in nats per symbol, after its update of `parameters`.
    """
    state: Any = None
    for tokens, targets in windows:
        loss, d, state = model.loss_and_gradients(parameters, tokens, targets, state)
        gradients = d.parameters
        if clip_value is not None:
            gradients = clip_by_value(gradients, clip_value)
        if clip_norm is not None:
            gradients = clip_by_norm(gradients, clip_norm)
        optimizer.update(parameters, gradients)
        yield loss
