"""Cells over time and depth. Under autograd this is the readable truth that the faster backend is held to.

Everything is time-major. Letters: T steps, B batch, I input size, H hidden size, L layers, D directions, G gates.
"""

from collections.abc import Callable, Collection
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models import cpu_kernels, fused
from models.cells import ACTIVATIONS, CELLS, Cell
from models.projections import Dense, Projection, in_time

BACKENDS = ("auto", "autograd", "fused", "compiled", "triton")
DROPOUT_PER = ("step", "window")
Project = Callable[[list[Cell]], list[Projection]]  # of each cell of a layer
TORCH_LAYERS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Dropout(nn.Module):
    """While training, sets what it reads to zero with probability p, and scales the rest so that means stay.

        y = x ∘ m / (1 − p),  m ~ Bernoulli(1 − p)

    With `per="step"` m is drawn for every step, as in `nn.LSTM`; with "window" once for all steps (Gal & Ghahramani,
    2016). Raises ValueError for p outside [0, 1).
    """

    def __init__(self, p: float, per: str = "step") -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout is {p}: it must be at least 0 and less than 1")
        if per not in DROPOUT_PER:
            raise ValueError(f"dropout per {per!r} does not exist: choose one of {', '.join(DROPOUT_PER)}")
        self.p, self.per = p, per

    def mask(self, x: Tensor) -> Tensor:
        """m / (1 − p), for x (T, B, ·)."""
        like = x if self.per == "step" else x[:1]
        return torch.empty_like(like).bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, per={self.per}"

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training and self.p else x


class Recurrent(nn.Module):
    """A stack of recurrent layers: h of one layer is x of the next. Called like `nn.LSTM`.

        h_t = cell(x_t, h_{t−1})

    A bidirectional layer has a second cell, which reads from the last step to the first, and its h stands beside the
    other's:

        y_t = [h_t, cell_reverse(x_t, h_{t+1})]

    Args:
        cell: "rnn", "gru" or "lstm".
        input_size: I.
        hidden_size: H.
        num_layers: L.
        activation, gate_activation: as in `models.cells.Cell`.
        backend: "autograd" loops over the cell; "fused" computes the same in one autograd function a layer, with its
            backward pass by hand, faster and for first derivatives only; "compiled" is that with kernels in C++ for
            what is on a CPU in float32 or float64; "triton" has kernels for GPUs; "auto" is compiled where there is a
            C++ compiler, else fused.
        bidirectional: whether there are D = 2 directions, else D = 1.
        dropout: between layers, while training: the probability that a value is dropped.
        dropout_per: "step" or "window", as in `Dropout`.
        recompute: 0 keeps all that the backward pass needs; else of each layer only what it reads is kept, and the rest
            computed again on the way back, under autograd in chunks of so many steps: the same bits, in less memory and
            more time.

    Inputs: x (T, B, I); a state of (L·D, B, H) each, zeros if it is left out, where a tensor alone is h; lengths (B) if
        sequences end before T. Whatever x holds beyond a length bears on nothing.
    Outputs: the last layer's y at every step (T, B, D·H), zero beyond a sequence's length, and the state after its last
        step, which in the reverse direction is the first. Of a layer, the forward direction's state comes first.
    Attributes: `cells`, one a layer, and `reverse_cells`: parameters are named `cells.0.weight_ih` and so on.

    Raises ValueError for a cell, activation or backend that does not exist or lacks what it needs, for x of another
    shape, and for lengths that are not between 1 and T.
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
        bidirectional: bool = False,
        dropout: float = 0.0,
        dropout_per: str = "step",
        recompute: int = 0,
    ) -> None:
        super().__init__()
        if recompute < 0:
            raise ValueError(f"recompute is {recompute}: give a number of steps, or 0 to keep everything")
        choices: list[tuple[str, Collection[str]]] = [(cell, CELLS), (backend, BACKENDS)]
        for name, known in [*choices, (activation, ACTIVATIONS), (gate_activation, ACTIVATIONS)]:
            if name not in known:
                raise ValueError(f"{name!r} does not exist: choose one of {', '.join(known)}")
        if backend == "triton" and find_spec("triton") is None:
            raise ValueError("backend 'triton' needs triton: pip install 'unrolled[gpu]', or choose fused")
        if backend == "compiled" and not cpu_kernels.can_compile():
            raise ValueError("backend 'compiled' needs a C++ compiler: install g++, or choose fused")
        self.cell, self.backend, self.dropout = cell, backend, Dropout(dropout, dropout_per)
        self.recompute = recompute
        sizes = [input_size] + [(1 + bidirectional) * hidden_size] * (num_layers - 1)
        self.cells, self.reverse_cells = (
            nn.ModuleList(CELLS[cell](size, hidden_size, activation, gate_activation) for size in of)
            for of in (sizes, sizes if bidirectional else [])
        )

    def extra_repr(self) -> str:
        """As of nn.LSTM, with the backend."""
        first = self.layers()[0]
        sizes = f"{first[0].input_size}, {first[0].hidden_size}, num_layers={len(self.cells)}"
        options = {"bidirectional": len(first) == 2, "recompute": self.recompute}
        return ", ".join(
            [sizes, *(f"{name}={value}" for name, value in options.items() if value), f"backend={self.backend}"]
        )

    def layers(self) -> list[list[Cell]]:
        """The cells of each layer: one, or one of each direction."""
        directions = [self.cells, self.reverse_cells] if len(self.reverse_cells) else [self.cells]
        return [cast(list[Cell], list(cells)) for cells in zip(*directions, strict=True)]

    def initial_state(self, batch_size: int) -> Any:
        """A state of zeros, (L·D, B, H) each."""
        return stack([cell.initial_state(batch_size) for cells in self.layers() for cell in cells])

    def forward(self, x: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        first = self.layers()[0]
        if x.dim() != 3 or x.shape[-1] != first[0].input_size or not len(x):
            raise ValueError(f"x has shape {tuple(x.shape)}: give (T, B, {first[0].input_size}), T at least 1")
        real = None if lengths is None else real_steps(lengths, x)
        x = x if real is None else x.masked_fill(~real, 0)
        return self.over_projected(lambda cells: dense(x, cells), x.shape[1], state, real)

    def over_projected(
        self, project: Project, batch_size: int, state: Any = None, real: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """The same, from a function for the first layer's W_ih x + b_ih, which who has symbols can look up in a table.
        `real` (T, B, 1) says which steps are not padding."""
        layers, finals, read = self.layers(), [], project
        state = (state,) if isinstance(state, Tensor) else state  # as nn.GRU and nn.RNN have it
        state = self.initial_state(batch_size) if state is None else layers[0][0].state(*state)
        before = iter(zip(*state, strict=True))
        for cells in layers:
            states = [cell.state(*next(before)) for cell in cells]
            output, after = self.kept(self.one_layer, cells, read, states, real)
            finals += after
            read = partial(self.read, output)
        return output, stack(finals)

    def read(self, x: Tensor, cells: list[Cell]) -> list[Projection]:
        """W_ih x + b_ih of a layer's cells, from the layer before."""
        return dense(self.dropout(x), cells)

    def one_layer(
        self, cells: list[Cell], project: Project, states: list[Any], real: Tensor | None
    ) -> tuple[Tensor, list[Any]]:
        """Every y of a layer (T, B, DH), and the last state (B, H) of each of its directions."""
        outputs, finals = [], []
        for direction, (cell, projection, state) in enumerate(zip(cells, project(cells), states, strict=True)):
            h, final = (self.along if direction == 0 else self.against)(cell, projection, state, real)
            outputs.append(h if real is None else h.masked_fill(~real, 0))
            finals.append(final)
        return torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0], finals

    def along(self, cell: Cell, projection: Projection, state: Any, real: Tensor | None) -> tuple[Tensor, Any]:
        """One cell from the first step to the last."""
        if self.backend == "triton":
            from models import triton_kernels  # which imports what not every machine has

            return triton_kernels.unroll(cell, projection.parts(), state, real)
        if self.backend != "autograd":
            return fused.unroll(cell, projection, state, real, compiled=self.backend != "fused")
        x_parts = projection.parts()
        outputs, chunks = [], x_parts.split(self.recompute or len(x_parts))
        reals = [None] * len(chunks) if real is None else real.split(len(chunks[0]))
        for x_part, real_part in zip(chunks, reals, strict=True):
            hs, state = self.kept(unroll, cell, x_part, state, real_part)
            outputs += hs
        return torch.stack(outputs), state

    def kept(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What the function returns, of which only the inputs are kept if the rest is to be computed again."""
        if not self.recompute or not torch.is_grad_enabled():
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False)

    def against(self, cell: Cell, projection: Projection, state: Any, real: Tensor | None) -> tuple[Tensor, Any]:
        """One cell from the last step to the first: a state stays as it is until its sequence begins."""
        h, final = self.along(
            cell, in_time(projection, lambda steps: steps.flip(0)), state, None if real is None else real.flip(0)
        )
        return h.flip(0), final

    @classmethod
    def from_torch(cls, layers: nn.RNNBase) -> "Recurrent":
        """The same layers with the same weights, from an `nn.RNN`, `nn.GRU` or `nn.LSTM`.

        Raises ValueError for what has no counterpart here: projections, missing biases.
        """
        for option, plain in (("proj_size", 0), ("bias", True)):
            if getattr(layers, option) != plain:
                raise ValueError(f"{option}={getattr(layers, option)} cannot be converted: it must be {plain}")
        cell = next(name for name, kind in TORCH_LAYERS.items() if isinstance(layers, kind))
        ours = cls(
            cell, layers.input_size, layers.hidden_size, layers.num_layers, getattr(layers, "nonlinearity", "tanh"),
            bidirectional=layers.bidirectional, dropout=layers.dropout,
        )  # fmt: skip
        ours.to(cast(Tensor, layers.weight_ih_l0))
        ours.load_state_dict({ours_name(name): value for name, value in layers.state_dict().items()})
        return ours

    def to_torch(self) -> Any:
        """The same layers with the same weights, as an `nn.RNN`, `nn.GRU` or `nn.LSTM`.

        Raises ValueError for activations and dropout that those do not have.
        """
        first = self.layers()[0][0]
        options: dict[str, Any] = {"bidirectional": len(self.reverse_cells) > 0, "dropout": self.dropout.p}
        if self.cell == "rnn" and first.activation is torch.relu:
            options["nonlinearity"] = "relu"
        elif first.activation is not torch.tanh or first.gate_activation is not torch.sigmoid:
            raise ValueError(
                "these activations cannot be converted: torch's layers have tanh and sigmoid, RNN also relu"
            )
        if self.dropout.p and self.dropout.per != "step":
            raise ValueError("dropout per window cannot be converted: torch's layers have it per step")
        layers = TORCH_LAYERS[self.cell](first.input_size, first.hidden_size, len(self.cells), **options)
        layers.to(first.weight_ih)
        layers.load_state_dict({name: self.state_dict()[ours_name(name)] for name in layers.state_dict()})
        return layers


class RNN(Recurrent):
    """`Recurrent("rnn", …)`, made as `nn.RNN` is made; likewise the two below."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__("rnn", input_size, hidden_size, num_layers, **options)


class GRU(Recurrent):
    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__("gru", input_size, hidden_size, num_layers, **options)


class LSTM(Recurrent):
    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, **options: Any) -> None:
        super().__init__("lstm", input_size, hidden_size, num_layers, **options)


def unroll(cell: Cell, x_parts: Tensor, state: Any, real: Tensor | None = None) -> tuple[list[Tensor], Any]:
    """One layer over time: W_ih x + b_ih of every step (T, B, GH) and a state of (B, H) in; every h (B, H) and the last
    state out. Where a step is not `real` (T, B, 1), the state stays what it was."""
    outputs = []
    for t, x_part in enumerate(x_parts.unbind()):
        after = cell.step(x_part, state)
        state = after if real is None else fused.choose(real[t], after, state)
        outputs.append(state.h)
    return outputs, state


def dense(x: Tensor, cells: list[Cell]) -> list[Projection]:
    """Of vectors x (T, B, I), for each cell of a layer."""
    return [Dense(x, cell.weight_ih, cell.bias_ih) for cell in cells]


def real_steps(lengths: Tensor, x: Tensor) -> Tensor:
    """Which steps of x (T, B, ·) are no padding: (T, B, 1)."""
    T, B = x.shape[:2]
    if lengths.shape != (B,) or lengths.is_floating_point() or not bool(((lengths >= 1) & (lengths <= T)).all()):
        raise ValueError(f"lengths are {lengths.tolist()}: give {B} whole numbers between 1 and {T}")
    return (torch.arange(T, device=x.device)[:, None] < lengths.to(x.device))[..., None]


def stack(states: list[Any]) -> Any:
    """One state of (L·D, B, H) from as many of (B, H)."""
    return type(states[0])(*(torch.stack(parts) for parts in zip(*states, strict=True)))


def ours_name(name: str) -> str:
    """`weight_ih_l0_reverse`, as torch's layers call it, is `reverse_cells.0.weight_ih` here."""
    parameter, layer = name.removesuffix("_reverse").rsplit("_l", 1)
    return f"{'reverse_' * name.endswith('_reverse')}cells.{layer}.{parameter}"
