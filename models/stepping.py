"""A language model one symbol at a time, as text is drawn: nothing is computed twice, nothing allocated on the way.

What the first layer's W_ih x + b_ih is for each symbol is computed once; weights are laid out as products read them;
each step writes over what the step before it left. The mathematics is that of `models/cells.py`. Letters: B batch, E
embedding size, H hidden size, V symbols, G gates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.cells import Cell, GRUCell, LSTMCell, RNNCell
from models.language_model import LanguageModel

LARGEST_TABLE = 2**23  # values, 32 MB: with more symbols than that, each is projected when it comes
IN_PLACE: dict[Any, Callable[[Tensor], Tensor]] = {
    torch.sigmoid: torch.sigmoid_,
    torch.tanh: torch.tanh_,
    torch.relu: torch.relu_,
}


def apply_(function: Callable[[Tensor], Tensor], a: Tensor) -> None:
    """f(a), in the place of a."""
    if function in IN_PLACE:
        IN_PLACE[function](a)
    else:
        a.copy_(function(a))


class Layer:
    """One layer. `step` takes W_ih x + `bias` (B, GH), and writes the next state into `state`, (B, H) each."""

    def __init__(self, cell: Cell, state: Any) -> None:
        self.gate, self.act = cell.gate_activation, cell.activation
        self.bias, self.bias_hh = cell.bias_ih + cell.bias_hh, cell.bias_hh
        self.weight_ih, self.weight_hh = cell.weight_ih.T.contiguous(), cell.weight_hh.T.contiguous()  # (·, GH)
        self.state = type(state)(*(part.clone() for part in state))
        self.a = self.state.h.new_empty(len(self.state.h), len(self.bias))
        self.parts = torch.empty_like(self.a)

    def project(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight_ih, out=self.parts)

    def step(self, parts: Tensor) -> None:
        raise NotImplementedError


class RNNLayer(Layer):
    """The equation of `models.steps.RNNStep`."""

    def step(self, parts: Tensor) -> None:
        torch.addmm(parts, self.state.h, self.weight_hh, out=self.a)
        apply_(self.act, self.a)
        self.state.h.copy_(self.a)


class GRULayer(Layer):
    """The equations of `models.steps.GRUStep`, the last of them with one product less.

    h' = n + z ∘ (h − n)
    """

    def __init__(self, cell: Cell, state: Any) -> None:
        super().__init__(cell, state)
        self.bias = cell.bias_ih.clone()
        self.rz, self.n = self.parts[:, : 2 * cell.hidden_size], self.parts[:, 2 * cell.hidden_size :]
        self.h_rz, self.h_n = self.a[:, : 2 * cell.hidden_size], self.a[:, 2 * cell.hidden_size :]
        self.r, self.z = self.rz.chunk(2, -1)

    def step(self, parts: Tensor) -> None:
        torch.addmm(self.bias_hh, self.state.h, self.weight_hh, out=self.a)
        apply_(self.gate, self.rz.add_(self.h_rz))
        apply_(self.act, self.n.addcmul_(self.r, self.h_n))
        self.state.h.sub_(self.n).mul_(self.z).add_(self.n)


class LSTMLayer(Layer):
    """The equations of `models.steps.LSTMStep`."""

    def __init__(self, cell: Cell, state: Any) -> None:
        super().__init__(cell, state)
        self.i, self.f, self.g, self.o = self.a.chunk(4, -1)
        self.i_f = self.a[:, : 2 * cell.hidden_size]

    def step(self, parts: Tensor) -> None:
        torch.addmm(parts, self.state.h, self.weight_hh, out=self.a)
        apply_(self.gate, self.i_f)
        apply_(self.act, self.g)
        apply_(self.gate, self.o)
        self.state.c.mul_(self.f).addcmul_(self.i, self.g)
        apply_(self.act, self.state.h.copy_(self.state.c))
        self.state.h.mul_(self.o)


LAYERS: dict[type[Cell], type[Layer]] = {RNNCell: RNNLayer, GRUCell: GRULayer, LSTMCell: LSTMLayer}


class Stepper:
    """A model that goes on from a state, as it returned it: each call takes the next symbols (B), and gives the logits
    (B, V) of those after them, to be read before the next call. It has no dropout."""

    def __init__(self, model: LanguageModel, state: Any) -> None:
        recurrent, memory = state if model.attention else (state, None)
        self.memory: Tensor | None = memory
        cells = [cell for (cell,) in model.recurrent.layers()]
        states = zip(*recurrent, strict=True)
        self.layers = [LAYERS[type(cell)](cell, cell.state(*of)) for cell, of in zip(cells, states, strict=True)]
        first, self.attention = self.layers[0], model.attention
        self.x: Any = model.embedding.weight if model.embedding else None  # (V, E)
        if self.x is None:
            self.table: Tensor | None = first.weight_ih + first.bias  # (V, GH): of one-hot input
        else:
            small = len(self.x) * len(first.bias) <= LARGEST_TABLE
            self.table = torch.addmm(first.bias, self.x, first.weight_ih) if small else None
        self.head, self.bias = model.head.weight.T.contiguous(), model.head.bias
        self.logits = self.head.new_empty(len(first.a), len(self.bias))

    def __call__(self, tokens: Tensor) -> Tensor:
        first, *others = self.layers
        if self.table is not None:
            first.step(torch.index_select(self.table, 0, tokens, out=first.parts))
        else:
            first.step(first.project(self.x[tokens]))
        x = first.state.h
        for layer in others:
            layer.step(layer.project(x))
            x = layer.state.h
        if self.attention:
            hidden, self.memory, _ = self.attention(x[None], self.memory)
            x = hidden[0]
        return torch.addmm(self.bias, x, self.head, out=self.logits)
