"""Cells over time and depth, forward and backward: the twin of `models/recurrent.py`, under its parameter names.

Werbos, *Backpropagation through time: what it does and how to do it* (1990). Everything is time-major. Letters: T
steps, B batch, I input size, H hidden size, G gates, L layers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import ACTIVATIONS, Array
from bptt.cells import CELLS, Activations, Cell, Parameters

Gradients = dict[str, Array]


class LayerTrace(NamedTuple):
    """What one layer's forward pass leaves for its backward pass."""

    x: Array  # (T, B, I)
    h_before: Array  # (T, B, H): the state h that each step started from
    saved: list[tuple[Any, ...]]  # one entry a step


class LayerGradients(NamedTuple):
    """∂L/∂ everything that one layer read, and on the way there ∂L/∂ what it computed."""

    x: Array  # (T, B, I)
    initial_state: Any  # the cell's state, (B, H) each
    parameters: Gradients
    x_part: Array  # (T, B, GH): of W_ih x + b_ih
    h_part: Array  # (T, B, GH): of W_hh h + b_hh
    states: Any  # (T, B, H) each: of every step's state, through its output and through all later steps


def layer_forward(x: Array, state: Any, p: Parameters, cell: Cell, act: Activations) -> tuple[Array, Any, LayerTrace]:
    """x (T, B, I) and a state of (B, H) in; the h of every step (T, B, H), the last state and the trace out."""
    x_parts = x @ p["weight_ih"].T + p["bias_ih"]  # (T, B, GH): all steps in one product
    before, outputs, saved = [], [], []
    for x_part in x_parts:
        before.append(state.h)
        state, of_step = cell.step(x_part, state, p, act)
        outputs.append(state.h)
        saved.append(of_step)
    return np.stack(outputs), state, LayerTrace(x, np.stack(before), saved)


def layer_backward(
    d_output: Array, d_state: Any, trace: LayerTrace, p: Parameters, cell: Cell, act: Activations
) -> LayerGradients:
    """Backpropagation through time: ∂L/∂h at every step (T, B, H) and ∂L/∂ the last state in."""
    d_x_parts, d_h_parts, d_states = [], [], []
    for d_h, saved in zip(reversed(d_output), reversed(trace.saved), strict=True):
        d_state = d_state._replace(h=d_state.h + d_h)  # from the loss at this step, and from all later steps
        d_states.append(d_state)
        d_x_part, d_h_part, d_state = cell.step_backward(d_state, saved, p, act)
        d_x_parts.append(d_x_part)
        d_h_parts.append(d_h_part)
    d_x_part, d_h_part = np.stack(d_x_parts[::-1]), np.stack(d_h_parts[::-1])  # (T, B, GH)
    return LayerGradients(
        x=d_x_part @ p["weight_ih"],  # ∂(W_ih x + b_ih)/∂x = W_ih
        initial_state=d_state,
        parameters=parameter_gradients(d_x_part, d_h_part, trace),
        x_part=d_x_part,
        h_part=d_h_part,
        states=stack(d_states[::-1]),
    )


def parameter_gradients(d_x_part: Array, d_h_part: Array, trace: LayerTrace) -> Gradients:
    """dW = Σ_t Σ_b δ inputᵀ and db = Σ_t Σ_b δ, each weight's sum in one matrix product."""

    def rows(a: Array) -> Array:
        return a.reshape(-1, a.shape[-1])  # (T·B, ·)

    return {
        "weight_ih": rows(d_x_part).T @ rows(trace.x),
        "weight_hh": rows(d_h_part).T @ rows(trace.h_before),
        "bias_ih": rows(d_x_part).sum(0),
        "bias_hh": rows(d_h_part).sum(0),
    }


def parameter_gradients_by_step(d: LayerGradients, trace: LayerTrace) -> Gradients:
    """What each step's use of the parameters adds: `d.parameters` are the sums of these over their leading axis T."""
    return {
        "weight_ih": d.x_part.swapaxes(1, 2) @ trace.x,  # (T, GH, I)
        "weight_hh": d.h_part.swapaxes(1, 2) @ trace.h_before,  # (T, GH, H)
        "bias_ih": d.x_part.sum(1),
        "bias_hh": d.h_part.sum(1),
    }


class RecurrentGradients(NamedTuple):
    """∂L/∂ everything that a stack of layers read."""

    x: Array  # (T, B, I)
    initial_state: Any  # (L, B, H) each
    parameters: Gradients
    layers: list[LayerGradients]  # from the first layer to the last


@dataclass(frozen=True)
class Recurrent:
    """A stack of layers: h of layer l is x of layer l + 1. Parameters are named `cells.0.weight_ih` and so on."""

    cell: str = "lstm"
    num_layers: int = 1
    activation: str = "tanh"
    gate_activation: str = "sigmoid"

    def parameters_of(self, layer: int, p: Parameters) -> dict[str, Array]:
        return {name: p[f"cells.{layer}.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}

    def activations(self) -> Activations:
        return Activations(ACTIVATIONS[self.gate_activation], ACTIVATIONS[self.activation])

    def initial_state(self, batch_size: int, p: Parameters) -> Any:
        """Zeros (L, B, H), of the parameters' kind of number."""
        hidden = p["cells.0.weight_hh"]
        zeros = np.zeros((self.num_layers, batch_size, hidden.shape[1]), hidden.dtype)
        state = CELLS[self.cell].state
        return state(*[zeros] * len(state._fields))

    def forward(self, p: Parameters, x: Array, state: Any = None) -> tuple[Array, Any, list[LayerTrace]]:
        """x (T, B, I) and a state of (L, B, H) in; output (T, B, H), the last state and the traces out."""
        state = self.initial_state(x.shape[1], p) if state is None else state
        cell = CELLS[self.cell]
        finals, traces = [], []
        for layer in range(self.num_layers):
            first = of_layer(state, layer)
            x, final, trace = layer_forward(x, first, self.parameters_of(layer, p), cell, self.activations())
            finals.append(final)
            traces.append(trace)
        return x, stack(finals), traces

    def backward(self, p: Parameters, d_output: Array, d_state: Any, traces: list[LayerTrace]) -> RecurrentGradients:
        """∂L/∂output (T, B, H) and ∂L/∂(last state) (L, B, H) in; ∂L/∂x, ∂L/∂(initial state), ∂L/∂parameters out."""
        cell = CELLS[self.cell]
        layers: list[LayerGradients] = []
        for layer in reversed(range(self.num_layers)):
            of_this = self.parameters_of(layer, p)
            d = layer_backward(d_output, of_layer(d_state, layer), traces[layer], of_this, cell, self.activations())
            d_output = d.x  # ∂L/∂x of this layer is ∂L/∂h of the one below
            layers.insert(0, d)
        parameters = named(d.parameters for d in layers)
        return RecurrentGradients(d_output, stack([d.initial_state for d in layers]), parameters, layers)

    def by_step(self, d: RecurrentGradients, traces: list[LayerTrace]) -> Gradients:
        """`d.parameters` split by the step at which the parameter was used: a leading axis T, to be summed over."""
        return named(map(parameter_gradients_by_step, d.layers, traces))


def of_layer(state: Any, layer: int) -> Any:
    return type(state)(*(part[layer] for part in state))


def stack(states: Sequence[Any]) -> Any:
    """One state with a new leading axis from many."""
    return type(states[0])(*(np.stack(parts) for parts in zip(*states, strict=True)))


def named(layers: Iterable[Gradients]) -> Gradients:
    """The layers' gradients in one dictionary, under the names that a `state_dict()` gives them."""
    return {f"cells.{layer}.{name}": gradient for layer, d in enumerate(layers) for name, gradient in d.items()}
