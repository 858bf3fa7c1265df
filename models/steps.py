"""One step of each cell, forward and back, written out by hand: what the fused layers are made of.

The mathematics is that of `models/cells.py`; the derivative of each line stands in the `backward` beneath it. What a
step keeps for the way back are its gates. `d` is ∂L/∂state after the step, and what `backward` returns is ∂L/∂(W_ih x +
b_ih), ∂L/∂(W_hh h + b_hh), and that part of ∂L/∂(state before) which does not come through W_hh.

Letters: B batch, H hidden size, G gates. Shapes: states and gates (B, H), what comes from input and from state (B, GH).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.cells import ACTIVATIONS, Cell, GRUCell, GRUState, LSTMCell, LSTMState, RNNCell, RNNState

Kept = tuple[Tensor, ...]


class Activation(NamedTuple):
    """f, and f′ as a function of what is kept: y = f(a), or a, where y does not tell on which side of a kink a is."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    keeps_a: bool = False

    def keep(self, a: Tensor, y: Tensor) -> Tensor:
        return a if self.keeps_a else y

    def value(self, kept: Tensor) -> Tensor:
        return self.function(kept) if self.keeps_a else kept


ACTIVATION_OF = {
    torch.sigmoid: Activation(torch.sigmoid, lambda y: y * (1 - y)),
    torch.tanh: Activation(torch.tanh, lambda y: 1 - y * y),
    torch.relu: Activation(torch.relu, lambda y: (y > 0).to(y)),
    ACTIVATIONS["identity"]: Activation(ACTIVATIONS["identity"], torch.ones_like),
    ACTIVATIONS["hard_sigmoid"]: Activation(
        ACTIVATIONS["hard_sigmoid"], lambda a: ((a >= -2) & (a <= 2)).to(a) / 4, keeps_a=True
    ),
    ACTIVATIONS["hard_tanh"]: Activation(
        ACTIVATIONS["hard_tanh"], lambda a: ((a >= -1) & (a <= 1)).to(a), keeps_a=True
    ),
}


class Step:
    """What the three have in common: the activations that stand for σ and tanh.

    In their equations x_i is gate i's block of what comes from input, `from_x`, h_i that of what comes from state,
    `from_h`, and so on.
    """

    state: type[Any]

    def __init__(self, gate: Activation, act: Activation) -> None:
        self.gate, self.act = gate, act

    def forward(self, from_x: Tensor, from_h: Tensor, before: Any) -> tuple[Kept, Any]:
        raise NotImplementedError

    def backward(self, kept: Kept, before: Any, after: Any, d: Any) -> tuple[Tensor, Tensor, Any]:
        raise NotImplementedError


class RNNStep(Step):
    """h' = tanh(x_h + h_h)"""

    state = RNNState

    def forward(self, from_x: Tensor, from_h: Tensor, before: RNNState) -> tuple[Kept, RNNState]:
        a = from_x + from_h
        h = self.act.function(a)
        return (self.act.keep(a, h),), RNNState(h)

    def backward(self, kept: Kept, before: RNNState, after: RNNState, d: RNNState) -> tuple[Tensor, Tensor, RNNState]:
        d_a = d.h * self.act.slope(kept[0])
        return d_a, d_a, RNNState(torch.zeros_like(d.h))


class GRUStep(Step):
    """As `models.cells.GRUCell`: the reset gate acts after the matrix product.

    r = σ(x_r + h_r)
    z = σ(x_z + h_z)
    n = tanh(x_n + r ∘ h_n)
    h' = (1 − z) ∘ n + z ∘ h
    """

    state = GRUState

    def forward(self, from_x: Tensor, from_h: Tensor, before: GRUState) -> tuple[Kept, GRUState]:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.chunk(3, -1), from_h.chunk(3, -1)
        a_r, a_z = x_r + h_r, x_z + h_z
        r, z = self.gate.function(a_r), self.gate.function(a_z)
        a_n = x_n + r * h_n
        n = self.act.function(a_n)
        kept = self.gate.keep(a_r, r), self.gate.keep(a_z, z), self.act.keep(a_n, n), h_n
        return kept, GRUState((1 - z) * n + z * before.h)

    def backward(self, kept: Kept, before: GRUState, after: GRUState, d: GRUState) -> tuple[Tensor, Tensor, GRUState]:
        k_r, k_z, k_n, h_n = kept
        r, z, n = self.gate.value(k_r), self.gate.value(k_z), self.act.value(k_n)
        d_n = d.h * (1 - z) * self.act.slope(k_n)  # ∂h'/∂n = 1 − z
        d_r = d_n * h_n * self.gate.slope(k_r)  # ∂a_n/∂r = h_n
        d_z = d.h * (before.h - n) * self.gate.slope(k_z)  # ∂h'/∂z = h − n
        return torch.cat([d_r, d_z, d_n], -1), torch.cat([d_r, d_z, d_n * r], -1), GRUState(d.h * z)


class LSTMStep(Step):
    """As `models.cells.LSTMCell`.

    i = σ(x_i + h_i)
    f = σ(x_f + h_f)
    g = tanh(x_g + h_g)
    o = σ(x_o + h_o)
    c' = f ∘ c + i ∘ g
    h' = o ∘ tanh(c')
    """

    state = LSTMState

    def forward(self, from_x: Tensor, from_h: Tensor, before: LSTMState) -> tuple[Kept, LSTMState]:
        a_i, a_f, a_g, a_o = (from_x + from_h).chunk(4, -1)
        i, f, o = self.gate.function(a_i), self.gate.function(a_f), self.gate.function(a_o)
        g = self.act.function(a_g)
        c = f * before.c + i * g
        kept = self.gate.keep(a_i, i), self.gate.keep(a_f, f), self.act.keep(a_g, g), self.gate.keep(a_o, o)
        return kept, LSTMState(h=o * self.act.function(c), c=c)

    def backward(
        self, kept: Kept, before: LSTMState, after: LSTMState, d: LSTMState
    ) -> tuple[Tensor, Tensor, LSTMState]:
        k_i, k_f, k_g, k_o = kept
        i, f, o = self.gate.value(k_i), self.gate.value(k_f), self.gate.value(k_o)
        g, squashed = self.act.value(k_g), self.act.function(after.c)
        d_c = d.c + d.h * o * self.act.slope(self.act.keep(after.c, squashed))  # ∂h'/∂c' = o · tanh′(c')
        d_a = torch.cat([
            d_c * g * self.gate.slope(k_i),  # ∂c'/∂i = g
            d_c * before.c * self.gate.slope(k_f),  # ∂c'/∂f = c
            d_c * i * self.act.slope(k_g),  # ∂c'/∂g = i
            d.h * squashed * self.gate.slope(k_o),  # ∂h'/∂o = tanh(c')
        ], -1)  # fmt: skip
        return d_a, d_a, LSTMState(h=torch.zeros_like(d.h), c=d_c * f)  # ∂c'/∂c = f


STEPS: dict[type[Cell], Any] = {RNNCell: RNNStep, GRUCell: GRUStep, LSTMCell: LSTMStep}
