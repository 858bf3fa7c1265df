"""Cells over time and depth. Under autograd this is the readable truth that the faster backend is held to.

Everything is time-major. Letters: T steps, B batch, I input size, H hidden size, L layers.
"""

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn

from models import fused
from models.cells import ACTIVATIONS, CELLS, Cell

BACKENDS = ("auto", "autograd", "fused")
TORCH_LAYERS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(nn.Module):
    """A stack of recurrent layers: h of one layer is x of the next. Called like `nn.LSTM`.

        h_t = cell(x_t, h_{t−1})

    Args:
        cell: "rnn", "gru" or "lstm".
        input_size: I.
        hidden_size: H.
        num_layers: L.
        activation, gate_activation: as in `models.cells.Cell`.
        backend: "autograd" loops over the cell; "fused" computes the same in one autograd function a layer, with its
            backward pass by hand, faster and for first derivatives only; "auto" takes fused.

    Inputs: x (T, B, I) and a state of (L, B, H) each, zeros if it is left out; a tensor alone is h.
    Outputs: the last layer's h at every step (T, B, H), and the state after the last step.
    Attributes: `cells`, one cell a layer: parameters are named `cells.0.weight_ih` and so on.

    Raises ValueError for a cell, activation or backend that does not exist, and for x of another shape.
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        activation: str = "tanh",
        gate_activation: str = "sigmoid",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        choices: list[tuple[str, Collection[str]]] = [(cell, CELLS), (backend, BACKENDS)]
        for name, known in [*choices, (activation, ACTIVATIONS), (gate_activation, ACTIVATIONS)]:
            if name not in known:
                raise ValueError(f"{name!r} does not exist: choose one of {', '.join(known)}")
        self.cell, self.backend = cell, backend
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(CELLS[cell](size, hidden_size, activation, gate_activation) for size in sizes)

    def initial_state(self, batch_size: int) -> Any:
        """A state of zeros, (L, B, H) each."""
        return stack([cell.initial_state(batch_size) for cell in self.layers()])

    def layers(self) -> list[Cell]:
        return cast(list[Cell], list(self.cells))

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        first = self.layers()[0]
        if x.dim() != 3 or x.shape[-1] != first.input_size:
            raise ValueError(f"x has shape {tuple(x.shape)}: give (T, B, {first.input_size})")
        return self.over_projected(first.project(x), state)

    def over_projected(self, x_parts: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The same, from the first layer's W_ih x + b_ih (T, B, GH): who has symbols can look it up in a table."""
        state = (state,) if isinstance(state, Tensor) else state  # as nn.GRU and nn.RNN have it
        state = self.initial_state(x_parts.shape[1]) if state is None else self.layers()[0].state(*state)
        run = unroll if self.backend == "autograd" else fused.unroll
        output, finals = x_parts, []
        for layer, cell in enumerate(self.layers()):
            before = cell.state(*(part[layer] for part in state))
            output, final = run(cell, cell.project(output) if layer else x_parts, before)
            finals.append(final)
        return output, stack(finals)

    @classmethod
    def from_torch(cls, layers: nn.RNNBase) -> "Recurrent":
        """The same layers with the same weights, from an `nn.RNN`, `nn.GRU` or `nn.LSTM`.

        Raises ValueError for what has no counterpart here: two directions, dropout, projections, missing biases.
        """
        for option, plain in (("bidirectional", False), ("dropout", 0), ("proj_size", 0), ("bias", True)):
            if getattr(layers, option) != plain:
                raise ValueError(f"{option}={getattr(layers, option)} cannot be converted: it must be {plain}")
        cell = next(name for name, kind in TORCH_LAYERS.items() if isinstance(layers, kind))
        activation = getattr(layers, "nonlinearity", "tanh")
        ours = cls(cell, layers.input_size, layers.hidden_size, layers.num_layers, activation)
        ours.to(cast(Tensor, layers.weight_ih_l0))
        ours.load_state_dict({ours_name(name): value for name, value in layers.state_dict().items()})
        return ours

    def to_torch(self) -> Any:
        """The same layers with the same weights, as an `nn.RNN`, `nn.GRU` or `nn.LSTM`.

        Raises ValueError for activations that those do not have.
        """
        first = self.layers()[0]
        options = {}
        if self.cell == "rnn" and first.activation is torch.relu:
            options["nonlinearity"] = "relu"
        elif first.activation is not torch.tanh or first.gate_activation is not torch.sigmoid:
            raise ValueError(
                "these activations cannot be converted: torch's layers have tanh and sigmoid, RNN also relu"
            )
        layers = TORCH_LAYERS[self.cell](first.input_size, first.hidden_size, len(self.cells), **options)
        layers.to(first.weight_ih)
        layers.load_state_dict({name: self.state_dict()[ours_name(name)] for name in layers.state_dict()})
        return layers


class RNN(Recurrent):
    """`Recurrent("rnn", …)`, made with the arguments that `nn.RNN` is made with; likewise the two below."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__("rnn", input_size, hidden_size, num_layers)


class GRU(Recurrent):
    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__("gru", input_size, hidden_size, num_layers)


class LSTM(Recurrent):
    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__("lstm", input_size, hidden_size, num_layers)


def unroll(cell: Cell, x_parts: Tensor, state: Any) -> tuple[Tensor, Any]:
    """One layer over time: W_ih x + b_ih of every step (T, B, GH) and a state of (B, H) in; every h (T, B, H) and the
    last state out."""
    outputs = []
    for x_part in x_parts.unbind():
        state = cell.step(x_part, state)
        outputs.append(state.h)
    return torch.stack(outputs), state


def stack(states: list[Any]) -> Any:
    """One state of (L, B, H) from L states of (B, H)."""
    return type(states[0])(*(torch.stack(parts) for parts in zip(*states, strict=True)))


def ours_name(name: str) -> str:
    """`weight_ih_l0`, as torch's layers call it, is `cells.0.weight_ih` here."""
    parameter, layer = name.rsplit("_l", 1)
    return f"cells.{layer}.{parameter}"
