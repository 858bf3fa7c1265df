"""RNN, GRU and LSTM: one step forward and, next to it, the same step backward, derived by hand.

A cell sees its input through one affine map, W_ih x + b_ih, and its past through another, W_hh h + b_hh. The first is
computed for all steps at once by the layer, so a step takes it ready-made as `x_part`; going backward, a step returns
∂L/∂(W_ih x + b_ih) and ∂L/∂(W_hh h + b_hh), from which the layer forms every parameter's gradient. The gates stand
side by side in these arrays, in PyTorch's order: i, f, g, o for the LSTM and r, z, n for the GRU.

Letters: B batch, I input size, H hidden size; `d_y` means ∂L/∂y. Where σ and tanh are written, the activations given
are used, so that the same lines also run the piecewise-linear cells.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import SIGMOID, TANH, Activation, Array

Parameters = Mapping[str, Array]


class RNNState(NamedTuple):
    h: Array  # (B, H)


class GRUState(NamedTuple):
    h: Array  # (B, H)


class LSTMState(NamedTuple):
    h: Array  # (B, H)
    c: Array  # (B, H)


class Activations(NamedTuple):
    """σ for the gates and tanh for everything else, or what stands in for them."""

    gate: Activation = SIGMOID
    state: Activation = TANH


def rnn_step(x_part: Array, prev: RNNState, p: Parameters, act: Activations) -> tuple[RNNState, tuple[Any, ...]]:
    """One step of a simple recurrent network (Elman, 1990).

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    Shapes: x_part (B, H), prev.h (B, H). Returns the new state and what the step backward needs.
    """
    a = x_part + prev.h @ p["weight_hh"].T + p["bias_hh"]  # (B, H)
    h = act.state(a)
    return RNNState(h), (a, h)


def rnn_step_backward(
    d: RNNState, saved: tuple[Any, ...], p: Parameters, act: Activations
) -> tuple[Array, Array, RNNState]:
    """∂L/∂h' in; ∂L/∂(W_ih x + b_ih), ∂L/∂(W_hh h + b_hh) and ∂L/∂h out."""
    a, h = saved
    da = d.h * act.state.derivative(a, h)  # ∂h'/∂a = 1 − h'²
    return da, da, RNNState(da @ p["weight_hh"])  # ∂a/∂h = W_hh


def gru_step(x_part: Array, prev: GRUState, p: Parameters, act: Activations) -> tuple[GRUState, tuple[Any, ...]]:
    """One step of a gated recurrent unit (Cho et al., 2014), in PyTorch's variant: the reset gate acts after the matrix
    product and on its bias, where the paper's acts on h before it.

        r = σ(W_ir x + b_ir + W_hr h + b_hr)
        z = σ(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn))
        h' = (1 − z) ∘ n + z ∘ h

    Shapes: x_part (B, 3H), prev.h (B, H). Returns the new state and what the step backward needs.
    """
    x_r, x_z, x_n = np.split(x_part, 3, axis=-1)  # (B, H) each
    h_r, h_z, h_n = np.split(prev.h @ p["weight_hh"].T + p["bias_hh"], 3, axis=-1)
    a_r, a_z = x_r + h_r, x_z + h_z
    r, z = act.gate(a_r), act.gate(a_z)
    a_n = x_n + r * h_n
    n = act.state(a_n)
    h = (1 - z) * n + z * prev.h
    return GRUState(h), (prev, h_n, a_r, r, a_z, z, a_n, n)


def gru_step_backward(
    d: GRUState, saved: tuple[Any, ...], p: Parameters, act: Activations
) -> tuple[Array, Array, GRUState]:
    """∂L/∂h' in; ∂L/∂(W_ih x + b_ih), ∂L/∂(W_hh h + b_hh) and ∂L/∂h out."""
    prev, h_n, a_r, r, a_z, z, a_n, n = saved
    da_n = d.h * (1 - z) * act.state.derivative(a_n, n)  # ∂h'/∂n = 1 − z, ∂n/∂a_n = 1 − n²
    da_z = d.h * (prev.h - n) * act.gate.derivative(a_z, z)  # ∂h'/∂z = h − n, ∂z/∂a_z = z (1 − z)
    da_r = da_n * h_n * act.gate.derivative(a_r, r)  # ∂a_n/∂r = W_hn h + b_hn, ∂r/∂a_r = r (1 − r)
    d_x_part = np.concatenate([da_r, da_z, da_n], axis=-1)  # (B, 3H)
    d_h_part = np.concatenate([da_r, da_z, da_n * r], axis=-1)  # ∂a_n/∂(W_hn h + b_hn) = r
    d_prev = d_h_part @ p["weight_hh"] + d.h * z  # through the gates, and ∂h'/∂h = z past them
    return d_x_part, d_h_part, GRUState(d_prev)


def lstm_step(x_part: Array, prev: LSTMState, p: Parameters, act: Activations) -> tuple[LSTMState, tuple[Any, ...]]:
    """One step of long short-term memory (Hochreiter & Schmidhuber, 1997) with a forget gate (Gers et al., 2000).

        i = σ(W_ii x + b_ii + W_hi h + b_hi)
        f = σ(W_if x + b_if + W_hf h + b_hf)
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)
        o = σ(W_io x + b_io + W_ho h + b_ho)
        c' = f ∘ c + i ∘ g
        h' = o ∘ tanh(c')

    Shapes: x_part (B, 4H), prev.h and prev.c (B, H). Returns the new state and what the step backward needs.
    """
    a = x_part + prev.h @ p["weight_hh"].T + p["bias_hh"]  # (B, 4H)
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)  # (B, H) each
    i, f, g, o = act.gate(a_i), act.gate(a_f), act.state(a_g), act.gate(a_o)
    c = f * prev.c + i * g
    tanh_c = act.state(c)
    h = o * tanh_c
    return LSTMState(h, c), (prev, a_i, i, a_f, f, a_g, g, a_o, o, c, tanh_c)


def lstm_step_backward(
    d: LSTMState, saved: tuple[Any, ...], p: Parameters, act: Activations
) -> tuple[Array, Array, LSTMState]:
    """∂L/∂h' and ∂L/∂c' in; ∂L/∂(W_ih x + b_ih), ∂L/∂(W_hh h + b_hh), ∂L/∂h and ∂L/∂c out."""
    prev, a_i, i, a_f, f, a_g, g, a_o, o, c, tanh_c = saved
    dc = d.c + d.h * o * act.state.derivative(c, tanh_c)  # c' counts by itself and in h': ∂h'/∂c' = o (1 − tanh²(c'))
    da_i = dc * g * act.gate.derivative(a_i, i)  # ∂c'/∂i = g, ∂i/∂a_i = i (1 − i)
    da_f = dc * prev.c * act.gate.derivative(a_f, f)  # ∂c'/∂f = c, ∂f/∂a_f = f (1 − f)
    da_g = dc * i * act.state.derivative(a_g, g)  # ∂c'/∂g = i, ∂g/∂a_g = 1 − g²
    da_o = d.h * tanh_c * act.gate.derivative(a_o, o)  # ∂h'/∂o = tanh(c'), ∂o/∂a_o = o (1 − o)
    da = np.concatenate([da_i, da_f, da_g, da_o], axis=-1)  # (B, 4H)
    return da, da, LSTMState(h=da @ p["weight_hh"], c=dc * f)  # ∂a/∂h = W_hh, ∂c'/∂c = f


class Cell(NamedTuple):
    """What a layer must know of a cell."""

    state: Any  # the class of its state
    gates: tuple[str, ...]  # the blocks of H rows in weight_ih and weight_hh, in order
    saved: tuple[str, ...]  # the names of what a step saves for its way back
    step: Callable[..., tuple[Any, tuple[Any, ...]]]
    step_backward: Callable[..., tuple[Array, Array, Any]]


CELLS = {
    "rnn": Cell(RNNState, ("h",), ("a", "h"), rnn_step, rnn_step_backward),
    "gru": Cell(
        GRUState,
        ("r", "z", "n"),
        ("prev", "h_n", "a_r", "r", "a_z", "z", "a_n", "n"),
        gru_step,
        gru_step_backward,
    ),
    "lstm": Cell(
        LSTMState,
        ("i", "f", "g", "o"),
        ("prev", "a_i", "i", "a_f", "f", "a_g", "g", "a_o", "o", "c", "tanh_c"),
        lstm_step,
        lstm_step_backward,
    ),
}
