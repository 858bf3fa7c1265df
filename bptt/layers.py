"""Cells over time, depth and direction, forward and backward: the twin of `models/recurrent.py`, under its names.

Werbos, *Backpropagation through time: what it does and how to do it* (1990); Schuster and Paliwal, *Bidirectional
recurrent neural networks* (1997). Everything is time-major. Letters: T steps, B batch, I input size, H hidden size, G
gates, L layers, D directions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
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
    real: Array | None = None  # (T, B, 1): whether a step was taken; where not, it was padding. None: all were
    mask: Array | None = None  # (T, B, I) or (1, B, I): what the layer below was multiplied by to give x (dropout)


class LayerGradients(NamedTuple):
    """∂L/∂ everything that one layer read, and on the way there ∂L/∂ what it computed."""

    x: Array  # (T, B, I)
    initial_state: Any  # the cell's state, (B, H) each
    parameters: Gradients
    x_part: Array  # (T, B, GH): of W_ih x + b_ih
    h_part: Array  # (T, B, GH): of W_hh h + b_hh
    states: Any  # (T, B, H) each: of every step's state, through its output and through all later steps


def layer_forward(
    x: Array, state: Any, p: Parameters, cell: Cell, act: Activations, real: Array | None = None
) -> tuple[Array, Any, LayerTrace]:
    """x (T, B, I) and a state of (B, H) in; the h of every step (T, B, H), the last state and the trace out.

    Where a step is not `real` (T, B, 1), the state stays what it was, and h is zero.
    """
    x_parts = product(x, p["weight_ih"].T) + p["bias_ih"]  # (T, B, GH): all steps in one product
    q = {**p, "weight_hh": np.asfortranarray(p["weight_hh"])}  # every step reads W_hhᵀ, row by row
    hs, saved = [state.h], []
    for x_part, taken in zip(x_parts, steps_taken(real, x), strict=True):
        after, of_step = cell.step(x_part, state, q, act)
        state = choose(taken, after, state)
        hs.append(state.h)
        saved.append(of_step)
    h = in_one(hs)  # (T + 1, B, H)
    return where_real(real, h[1:]), state, LayerTrace(x, h[:-1], saved, real)


def layer_backward(
    d_output: Array, d_state: Any, trace: LayerTrace, p: Parameters, cell: Cell, act: Activations
) -> LayerGradients:
    """Backpropagation through time: ∂L/∂h at every step (T, B, H) and ∂L/∂ the last state in."""
    d_output = where_real(trace.real, d_output)  # h was set to zero where a step was not real
    d_x_parts, d_h_parts, d_states = [], [], []
    steps = zip(d_output, trace.saved, steps_taken(trace.real, trace.x), strict=True)
    for d_h, saved, taken in reversed(list(steps)):
        d_state = d_state._replace(h=d_state.h + d_h)  # from the loss at this step, and from all later steps
        d_states.append(d_state)
        d_step = type(d_state)(*(where_real(taken, d) for d in d_state))  # a step not taken gets nothing:
        d_x_part, d_h_part, d_prev = cell.step_backward(d_step, saved, p, act)
        d_state = choose(taken, d_prev, d_state)  # it goes past it
        d_x_parts.append(d_x_part)
        d_h_parts.append(d_h_part)
    d_h_part = in_one(d_h_parts[::-1])  # (T, B, GH)
    d_x_part = d_h_part if d_x_part is d_h_parts[-1] else in_one(d_x_parts[::-1])  # but for the GRU, the same
    return LayerGradients(
        x=product(d_x_part, p["weight_ih"]),  # ∂(W_ih x + b_ih)/∂x = W_ih
        initial_state=d_state,
        parameters=parameter_gradients(d_x_part, d_h_part, trace),
        x_part=d_x_part,
        h_part=d_h_part,
        states=stack(d_states[::-1]),
    )


def rows(a: Array) -> Array:
    return a.reshape(-1, a.shape[-1])  # (T·B, ·)


def product(a: Array, weight: Array) -> Array:
    """a (T, B, I) times weight (I, O), of all steps at once, where NumPy would multiply one step after another."""
    return (rows(a) @ weight).reshape(*a.shape[:-1], weight.shape[1])


def parameter_gradients(d_x_part: Array, d_h_part: Array, trace: LayerTrace) -> Gradients:
    """dW = Σ_t Σ_b δ inputᵀ and db = Σ_t Σ_b δ, each weight's sum in one matrix product."""

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
    """A stack of layers: the output of layer l is x of layer l + 1.

    A layer has one cell, or one for each direction, whose h stand side by side in its output. Parameters are named
    `cells.0.weight_ih` and so on, those of the reverse direction `reverse_cells.0.weight_ih`. States (L·D, B, H) hold
    the forward direction of a layer before its reverse direction.
    """

    cell: str = "lstm"
    num_layers: int = 1
    activation: str = "tanh"
    gate_activation: str = "sigmoid"
    bidirectional: bool = False

    def prefixes(self) -> list[str]:
        """What the names of each layer's and direction's parameters begin with, in the order of their states."""
        directions = ("cells", "reverse_cells") if self.bidirectional else ("cells",)
        return [f"{direction}.{layer}." for layer in range(self.num_layers) for direction in directions]

    def parameters_of(self, place: int, p: Parameters) -> dict[str, Array]:
        """Those of one layer and direction, by its place among the states."""
        prefix = self.prefixes()[place]
        return {name: p[prefix + name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}

    def activations(self) -> Activations:
        return Activations(ACTIVATIONS[self.gate_activation], ACTIVATIONS[self.activation])

    def initial_state(self, batch_size: int, p: Parameters) -> Any:
        """Zeros (L·D, B, H), of the parameters' kind of number."""
        hidden = p["cells.0.weight_hh"]
        zeros = np.zeros((len(self.prefixes()), batch_size, hidden.shape[1]), hidden.dtype)
        state = CELLS[self.cell].state
        return state(*[zeros] * len(state._fields))

    def forward(
        self, p: Parameters, x: Array, state: Any = None, lengths: Array | None = None, masks: Sequence[Array] = ()
    ) -> tuple[Array, Any, list[LayerTrace]]:
        """x (T, B, I), a state of (L·D, B, H), where sequences end early their lengths (B), and where dropout acts what
        it multiplies each layer's output by on its way to the next; output (T, B, D·H), zero beyond a length, the last
        state and a trace of each layer and direction out."""
        state = self.initial_state(x.shape[1], p) if state is None else state
        real = None if lengths is None else (np.arange(len(x))[:, np.newaxis] < lengths)[..., np.newaxis]  # (T, B, 1)
        output, finals, traces = where_real(real, x), [], []
        directions = 1 + self.bidirectional
        for layer in range(self.num_layers):
            mask = masks[layer - 1] if layer and masks else None
            x = output if mask is None else output * mask
            outputs = []
            for place in range(layer * directions, (layer + 1) * directions):
                forth = time_order(place, directions)
                of_this = self.parameters_of(place, p), CELLS[self.cell], self.activations()
                h, final, trace = layer_forward(forth(x), of_layer(state, place), *of_this, forth(real))
                outputs.append(forth(h))
                finals.append(final)
                traces.append(trace._replace(mask=mask))
            output = np.concatenate(outputs, axis=-1)
        return output, stack(finals), traces

    def backward(self, p: Parameters, d_output: Array, d_state: Any, traces: list[LayerTrace]) -> RecurrentGradients:
        """∂L/∂output (T, B, D·H) and ∂L/∂(last state) (L·D, B, H) in; ∂L/∂x, ∂L/∂(initial state), ∂L/∂parameters out.
        Steps of a reverse direction come out in the order of time, too."""
        cell, directions = CELLS[self.cell], 1 + self.bidirectional
        layers: list[LayerGradients] = []
        for layer in reversed(range(self.num_layers)):
            of_this: list[LayerGradients] = []
            d_outputs = np.split(d_output, directions, axis=-1)
            for place, d_h in enumerate(d_outputs, start=layer * directions):
                forth = time_order(place, directions)
                q, d_last = self.parameters_of(place, p), of_layer(d_state, place)
                d = layer_backward(forth(d_h), d_last, traces[place], q, cell, self.activations())
                of_this.append(d._replace(x=forth(d.x), x_part=forth(d.x_part), h_part=forth(d.h_part)))
            d_output = reduce(np.add, [d.x for d in of_this])  # each direction read x, which is the output below
            mask = traces[layer * directions].mask
            d_output = d_output if mask is None else d_output * mask
            layers = of_this + layers
        parameters = self.named([d.parameters for d in layers])
        return RecurrentGradients(d_output, stack([d.initial_state for d in layers]), parameters, layers)

    def by_step(self, d: RecurrentGradients, traces: list[LayerTrace]) -> Gradients:
        """`d.parameters` split by the step at which the parameter was used: a leading axis T, to be summed over."""
        in_time = []
        for place, trace in enumerate(traces):
            forth = time_order(place, 1 + self.bidirectional)
            in_time.append(trace._replace(x=forth(trace.x), h_before=forth(trace.h_before)))
        return self.named(list(map(parameter_gradients_by_step, d.layers, in_time)))

    def named(self, layers: list[Gradients]) -> Gradients:
        """The gradients of all layers and directions in one dictionary, under the names that a `state_dict()` has."""
        pairs = zip(self.prefixes(), layers, strict=True)
        return {prefix + name: gradient for prefix, d in pairs for name, gradient in d.items()}


def time_order(place: int, directions: int) -> Callable[[Any], Any]:
    """What turns steps into the order in which a direction takes them, and back: itself, or the other way round."""
    backwards = place % directions == 1
    return lambda steps: steps[::-1] if backwards and steps is not None else steps


def where_real(real: Array | None, array: Array) -> Array:
    """Zero where a step was not real, whatever stands there."""
    return array if real is None else np.where(real, array, array.dtype.type(0))


def steps_taken(real: Array | None, x: Array) -> list[Array | None]:
    """For each step, which members of the batch take it (B, 1); nothing, where all do."""
    return [None] * len(x) if real is None else list(real)


def choose(taken: Array | None, after: Any, before: Any) -> Any:
    """The state after a step where it was taken, the one before it elsewhere, (B, H) each."""
    if taken is None:
        return after
    return type(after)(*(np.where(taken, *parts) for parts in zip(after, before, strict=True)))


def of_layer(state: Any, layer: int) -> Any:
    return type(state)(*(part[layer] for part in state))


def stack(states: Sequence[Any]) -> Any:
    """One state with a new leading axis from many."""
    return type(states[0])(*(in_one(parts) for parts in zip(*states, strict=True)))


def in_one(steps: Sequence[Array]) -> Array:
    """As np.stack, in a third of its time where arrays are small."""
    return np.concatenate(steps).reshape(len(steps), *steps[0].shape)
