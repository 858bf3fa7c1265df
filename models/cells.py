"""RNN, GRU and LSTM cells: the equations as `nn.Module`s, with PyTorch's parameter names, shapes and gate order.

All cells share one protocol: `state = cell.initial_state(batch_size)`, then `state = cell(x, state)` for every step;
the output of a step is `state.h`. A cell sees its input through one affine map, W_ih x + b_ih, which depends on no
state: `cell.project(x)` computes it for any number of steps at once, and `cell.step` does the rest.

Letters: B batch, I input size, H hidden size, G gates.
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hard_sigmoid": lambda a: ((a + 2) / 4).clamp(0, 1),
    "hard_tanh": lambda a: a.clamp(-1, 1),
    "relu": torch.relu,
    "identity": lambda a: a,
}


class RNNState(NamedTuple):
    h: Tensor


class GRUState(NamedTuple):
    h: Tensor


class LSTMState(NamedTuple):
    h: Tensor
    c: Tensor


class Cell(nn.Module):
    """What the three cells have in common: two affine maps, an initial state of zeros, and the protocol.

    Args:
        input_size: I.
        hidden_size: H.
        activation: stands for tanh in the cell's equations; one of `ACTIVATIONS`.
        gate_activation: stands for σ; a cell without gates has no use for it.

    Attributes: weight_ih (G·H, I), weight_hh (G·H, H), bias_ih (G·H), bias_hh (G·H), drawn from U(−1/√H, 1/√H).
    """

    state: ClassVar[type[Any]]
    gates: ClassVar[tuple[str, ...]]  # the blocks of H rows in the parameters, in order

    def __init__(
        self, input_size: int, hidden_size: int, activation: str = "tanh", gate_activation: str = "sigmoid"
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.activation, self.gate_activation = ACTIVATIONS[activation], ACTIVATIONS[gate_activation]
        rows = len(self.gates) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(rows))
        self.bias_hh = nn.Parameter(torch.empty(rows))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"

    def initial_state(self, batch_size: int) -> Any:
        """A state of zeros, (B, H) each."""
        zeros = self.weight_hh.new_zeros(batch_size, self.hidden_size)
        return self.state(*[zeros] * len(self.state._fields))

    def project(self, x: Tensor) -> Tensor:
        """W_ih x + b_ih: (..., I) → (..., GH)."""
        return F.linear(x, self.weight_ih, self.bias_ih)

    def recur(self, h: Tensor) -> Tensor:
        """W_hh h + b_hh: (B, H) → (B, GH)."""
        return F.linear(h, self.weight_hh, self.bias_hh)

    def step(self, x_part: Tensor, state: Any) -> Any:
        """The next state, from the projected input (B, GH) and the state before."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: Any) -> Any:
        """One step: x (B, I) and the state before, to the state after."""
        return self.step(self.project(x), state)


class RNNCell(Cell):
    """A simple recurrent network (Elman, 1990).

    h' = tanh(W_ih x + b_ih + W_hh h + b_hh)
    """

    state = RNNState
    gates = ("h",)

    def step(self, x_part: Tensor, state: RNNState) -> RNNState:
        return RNNState(self.activation(x_part + self.recur(state.h)))


class GRUCell(Cell):
    """A gated recurrent unit (Cho et al., 2014), in PyTorch's variant: the reset gate acts after the matrix product and
    on its bias, where the paper's acts on h before it.

        r = σ(W_ir x + b_ir + W_hr h + b_hr)
        z = σ(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn))
        h' = (1 − z) ∘ n + z ∘ h
    """

    state = GRUState
    gates = ("r", "z", "n")

    def step(self, x_part: Tensor, state: GRUState) -> GRUState:
        x_r, x_z, x_n = x_part.chunk(3, dim=-1)  # (B, H) each
        h_r, h_z, h_n = self.recur(state.h).chunk(3, dim=-1)
        r = self.gate_activation(x_r + h_r)
        z = self.gate_activation(x_z + h_z)
        n = self.activation(x_n + r * h_n)
        return GRUState((1 - z) * n + z * state.h)


class LSTMCell(Cell):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997) with a forget gate (Gers et al., 2000).

    i = σ(W_ii x + b_ii + W_hi h + b_hi)
    f = σ(W_if x + b_if + W_hf h + b_hf)
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)
    o = σ(W_io x + b_io + W_ho h + b_ho)
    c' = f ∘ c + i ∘ g
    h' = o ∘ tanh(c')
    """

    state = LSTMState
    gates = ("i", "f", "g", "o")

    def step(self, x_part: Tensor, state: LSTMState) -> LSTMState:
        a_i, a_f, a_g, a_o = (x_part + self.recur(state.h)).chunk(4, dim=-1)  # (B, H) each
        i, f, o = self.gate_activation(a_i), self.gate_activation(a_f), self.gate_activation(a_o)
        c = f * state.c + i * self.activation(a_g)
        return LSTMState(h=o * self.activation(c), c=c)


CELLS: dict[str, type[Cell]] = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}
