"""The non-linearities of recurrent networks and their derivatives, in any arithmetic.

The functions run on float arrays of any width, on complex ones (for complex-step differentiation), and on object arrays
of `fractions.Fraction` (no rounding at all) or `decimal.Decimal` (as many digits as its context keeps). The smooth
functions need `exp`, which fractions do not have; for them there are the piecewise-linear ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Activation:
    """An elementwise function y = f(a) and its derivative, which may use both a and the saved y."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]

    def __call__(self, a: Array) -> Array:
        return self.function(a)


def exp(x: Array) -> Array:
    """eˣ. NumPy asks the elements of an object array for their own `exp`, which Decimal has."""
    return np.exp(x)


def log(x: Array) -> Array:
    """ln x. Decimal calls it `ln`."""
    return np.frompyfunc(lambda number: number.ln(), 1, 1)(x) if x.dtype == object else np.log(x)


def sigmoid(a: Array) -> Array:
    """σ(a) = 1 / (1 + e⁻ᵃ), with an exponent that is never positive, so that nothing overflows."""
    positive = a.real >= 0
    e = exp(np.where(positive, -a, a))
    return np.where(positive, 1 / (1 + e), e / (1 + e))


def tanh(a: Array) -> Array:
    """tanh(a) = 2 σ(2a) − 1, unless NumPy, or the elements of an object array, have a function of their own."""
    return np.tanh(a) if a.dtype != object or hasattr(a.flat[0], "tanh") else 2 * sigmoid(2 * a) - 1


def clip(x: Array, low: int, high: int) -> Array:
    """max(low, min(x, high)), of the real part where x is complex."""
    return np.where(x.real < low, low + x * 0, np.where(x.real > high, high + x * 0, x))


def indicator(condition: Array, like: Array) -> Array:
    """1 where the condition holds, else 0, as numbers of the kind that `like` holds."""
    return condition + like * 0


def constant(value: float, like: Array) -> Any:
    """The value as a number of the kind that `like` holds."""
    kind = type(like.flat[0])
    return kind.of(value) if hasattr(kind, "of") else kind(value)


SIGMOID = Activation(sigmoid, lambda a, y: y * (1 - y))
TANH = Activation(tanh, lambda a, y: 1 - y * y)
# At a kink any slope between the two sides is a subgradient. These are autograd's choices: a clipped line keeps its
# slope at both ends, relu has none at zero.
HARD_SIGMOID = Activation(
    lambda a: clip((a + 2) / 4, 0, 1),
    lambda a, y: indicator(((a + 2).real >= 0) & ((a + 2).real <= 4), a) / 4,
)
HARD_TANH = Activation(lambda a: clip(a, -1, 1), lambda a, y: indicator((a.real >= -1) & (a.real <= 1), a))
RELU = Activation(lambda a: np.where(a.real > 0, a, a * 0), lambda a, y: indicator(a.real > 0, a))
IDENTITY = Activation(lambda a: a, lambda a, y: 1 + a * 0)

ACTIVATIONS = {
    "sigmoid": SIGMOID,
    "tanh": TANH,
    "hard_sigmoid": HARD_SIGMOID,
    "hard_tanh": HARD_TANH,
    "relu": RELU,
    "identity": IDENTITY,
}
