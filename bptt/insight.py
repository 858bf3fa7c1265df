"""What is looked at inside a language model, by hand: the twin of `models/insight/`, one backward pass for each number.

Letters: T steps, B batch, V vocabulary, E size of x, H hidden size, K steps looked back.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bptt.arithmetic import Array, constant
from bptt.cells import CELLS, Activations, Cell, Parameters
from bptt.layers import LayerTrace, layer_backward
from bptt.networks import LanguageModel, Trace


def whole_states(states: Any, trace: LayerTrace, cell: Cell, act: Activations) -> Any:
    """∂L/∂h_t and ∂L/∂c_t (T, B, H) with all ways that lead from c_t, of which the backward pass keeps apart the one
    through its own h.

    dc = dc_later + dh ∘ o ∘ (1 − tanh(c')²)
    """
    if "c" not in states._fields:
        return states
    saved = [dict(zip(cell.saved, step, strict=True)) for step in trace.saved]
    o, c, tanh_c = (np.stack([step[name] for step in saved]) for name in ("o", "c", "tanh_c"))
    return states._replace(c=states.c + states.h * o * act.state.derivative(c, tanh_c))


def state_gradients(network: LanguageModel, p: Parameters, d_logits: Array, trace: Trace) -> list[Any]:
    """∂L/∂ every layer's state after every step, (T, B, H) each, from ∂L/∂logits (T, B, V)."""
    cell, act = CELLS[network.recurrent.cell], network.recurrent.activations()
    found = network.backward(p, d_logits, trace).recurrent.layers
    return [whole_states(d.states, of, cell, act) for d, of in zip(found, trace.layers, strict=True)]


def gradients_of_logits(
    network: LanguageModel, p: Parameters, logits: Array, trace: Trace, symbols: Array
) -> Iterator[Array]:
    """For each step t̃, ∂z_k(t̃)/∂x_t for all t, (T, B, E): of the logit z_k of one symbol k each (T, B)."""
    for t, of_step in enumerate(symbols):
        d_logits = logits * 0
        d_logits[t, np.arange(len(of_step)), of_step] = constant(1.0, logits)
        yield network.backward(p, d_logits, trace).recurrent.x


def jacobians(trace: LayerTrace, p: Parameters, cell: Cell, act: Activations, part: str) -> Array:
    """∂h_T/∂h_t, or ∂c_T/∂c_t, of a layer at every step t, one row after the other: (T, B, H, H)."""
    nothing = trace.h_before * 0  # (T, B, H)
    rows = []
    for unit in range(nothing.shape[-1]):
        d_final = cell.state(*(nothing[0] + 0 for _ in cell.state._fields))
        getattr(d_final, part)[:, unit] = constant(1.0, nothing)
        d = layer_backward(nothing, d_final, trace, p, cell, act)
        rows.append(getattr(whole_states(d.states, trace, cell, act), part))
    return np.stack(rows, axis=2)
