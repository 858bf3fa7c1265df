"""Wrong gradients that people have published, as small changes to the true code, to try a checker with.

A mutant is a piece of a function's source and what to put in its place. `applied` makes the change for as long as a
`with` block lasts.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any, NamedTuple

from bptt import attention, cells, layers, losses, networks


class Mutant(NamedTuple):
    """One bug. `cell` names the only cell that it can be seen in, if there is only one."""

    name: str
    sentence: str
    seen: str
    function: Callable[..., Any]
    true: str
    false: str
    cell: str = ""
    scope: str = "layers"  # what shows it: any stack of layers, or only one with an option, or a whole model

    def __str__(self) -> str:
        return self.name


TUTORIALS, HOMEWORK, KERNELS = "tutorials", "course solutions", "kernel pull requests"
RNN, GRU, LSTM = cells.rnn_step_backward, cells.gru_step_backward, cells.lstm_step_backward
OVER_TIME, WEIGHTS, STACK = layers.layer_backward, layers.parameter_gradients, layers.Recurrent.backward
SOFTMAX, MODEL = losses.softmax_cross_entropy, networks.LanguageModel.backward
LOOKED_UP, SEEN, LOOK = networks.embedding_gradient, attention.softmax_backward, attention.causal_attention_backward

MUTANTS = [
    Mutant("rnn-untransposed", "W_hh stands where its transpose is due in ∂L/∂h.", HOMEWORK,
           RNN, 'da @ p["weight_hh"]', 'da @ p["weight_hh"].T', "rnn"),
    Mutant("gru-untransposed", "The n block of W_hh stands where its transpose is due in ∂L/∂h.", HOMEWORK,
           GRU, 'd_h_part @ p["weight_hh"]',
           'd_h_part @ np.concatenate([p["weight_hh"][: -r.shape[1]], p["weight_hh"][-r.shape[1] :].T])', "gru"),
    Mutant("lstm-untransposed", "The o block of W_hh stands where its transpose is due in ∂L/∂h.", HOMEWORK,
           LSTM, 'da @ p["weight_hh"]',
           'da @ np.concatenate([p["weight_hh"][: -i.shape[1]], p["weight_hh"][-i.shape[1] :].T])', "lstm"),
    Mutant("one-step", "∂L/∂h of the step after never arrives: one-step BPTT.", TUTORIALS,
           OVER_TIME, "h=d_state.h + d_h)", "h=d_h)"),
    Mutant("truncated", "What comes back is cut off every second step, unasked.", TUTORIALS,
           OVER_TIME, "h=d_state.h + d_h)", "h=d_state.h * (len(d_states) % 2) + d_h)"),
    Mutant("rnn-no-slope", "1 − h² is missing.", TUTORIALS, RNN, " * act.state.derivative(a, h)", "", "rnn"),
    Mutant("gru-no-slope-r", "σ′ is missing on the reset gate.", HOMEWORK,
           GRU, "da_n * h_n * act.gate.derivative(a_r, r)", "da_n * h_n", "gru"),
    Mutant("gru-no-slope-z", "σ′ is missing on the update gate.", HOMEWORK,
           GRU, " * act.gate.derivative(a_z, z)", "", "gru"),
    Mutant("lstm-no-slope-i", "σ′ is missing on the input gate.", HOMEWORK,
           LSTM, "dc * g * act.gate.derivative(a_i, i)", "dc * g", "lstm"),
    Mutant("lstm-no-slope-f", "σ′ is missing on the forget gate.", HOMEWORK,
           LSTM, " * act.gate.derivative(a_f, f)", "", "lstm"),
    Mutant("lstm-no-slope-o", "σ′ is missing on the output gate.", HOMEWORK,
           LSTM, " * act.gate.derivative(a_o, o)", "", "lstm"),
    Mutant("lstm-copied-delta", "The output gate gets the forget gate's δ: copied, not edited.", TUTORIALS,
           LSTM, "[da_i, da_f, da_g, da_o]", "[da_i, da_f, da_g, da_f]", "lstm"),
    Mutant("overwritten-weights", "= for += in dW: the step walked last, t = 0, replaces all others.", TUTORIALS,
           WEIGHTS, "rows(d_h_part).T @ rows(trace.h_before)", "d_h_part[0].T @ trace.h_before[0]"),
    Mutant("lstm-overwritten-dc", "= for += in dc: what comes from the step after is lost.", HOMEWORK,
           LSTM, "d.c + d.h * o *", "d.h * o *", "lstm"),
    Mutant("final-h-ignored", "A gradient that arrives at the last h is ignored.", KERNELS,
           OVER_TIME, "    d_x_parts, d_h_parts, d_states = [], [], []",
           "    d_state = d_state._replace(h=d_state.h * 0)\n    d_x_parts, d_h_parts, d_states = [], [], []"),
    Mutant("lstm-final-c-ignored", "A gradient that arrives at the last c is ignored.", KERNELS,
           OVER_TIME, "    d_x_parts, d_h_parts, d_states = [], [], []",
           '    d_state = d_state._replace(**({"c": d_state.c * 0} if "c" in d_state._fields else {}))\n'
           "    d_x_parts, d_h_parts, d_states = [], [], []", "lstm"),
    Mutant("wrong-h", "dW_hh takes h of the same step for h of the step before.", TUTORIALS,
           WEIGHTS, "rows(trace.h_before)", "rows(np.concatenate([trace.h_before[1:], trace.h_before[-1:]]))"),
    Mutant("wrapped-h", "hidden[t − 1] at t = 0 wraps to the last state.", TUTORIALS,
           WEIGHTS, "rows(trace.h_before)", "rows(np.concatenate([trace.h_before[-1:], trace.h_before[1:]]))"),
    Mutant("forward-order", "The Jacobians are multiplied in the order of time, not against it.", TUTORIALS,
           OVER_TIME, "reversed(list(steps))", "list(steps)"),
    Mutant("one-sequence-bias", "The bias takes the first sequence of the batch instead of the sum.", HOMEWORK,
           WEIGHTS, '"bias_ih": rows(d_x_part).sum(0)', '"bias_ih": d_x_part[:, 0].sum(0)'),
    Mutant("double-bias", "The bias gradient is counted twice, once for each bias.", KERNELS,
           WEIGHTS, '"bias_hh": rows(d_h_part).sum(0)', '"bias_hh": 2 * rows(d_h_part).sum(0)'),
    Mutant("wrong-layer", "The layers' gradients are filed in the order of computation, last layer first.", HOMEWORK,
           STACK, "layers = of_this + layers", "layers = layers + of_this"),
    Mutant("mask-forgotten", "Dropout's mask is not applied again on the way back.", HOMEWORK,
           STACK, "d_output * mask", "d_output", scope="dropout"),
    Mutant("reverse-lost", "What the reverse direction sends down to x is not added.", HOMEWORK,
           STACK, "reduce(np.add, [d.x for d in of_this])", "of_this[0].x", scope="bidirectional"),
    Mutant("reverse-unflipped", "The reverse direction's ∂L/∂x stays in the order in which it was walked.", KERNELS,
           STACK, "x=forth(d.x)", "x=d.x", scope="bidirectional"),
    Mutant("padding-in-weights", "Padding's steps add to dW.", KERNELS,
           OVER_TIME, "(where_real(taken, d) for d in d_state)", "d_state", scope="lengths"),
    Mutant("padding-in-state", "What arrives at the final state goes back through the padding's steps.", KERNELS,
           OVER_TIME, "d_state = choose(taken, d_prev, d_state)", "d_state = d_prev", scope="lengths"),
    Mutant("clipped", "Gradients are clipped before they are checked.", TUTORIALS,
           OVER_TIME, "parameters=parameter_gradients(d_x_part, d_h_part, trace)",
           "parameters={n: np.clip(g, -1, 1) for n, g in parameter_gradients(d_x_part, d_h_part, trace).items()}"),
    Mutant("lstm-permuted", "The gates come in the order i, f, o, g.", KERNELS,
           LSTM, "[da_i, da_f, da_g, da_o]", "[da_i, da_f, da_o, da_g]", "lstm"),
    Mutant("gru-permuted", "The gates come in the order z, r, n.", KERNELS,
           GRU, "d_x_part = np.concatenate([da_r, da_z, da_n], axis=-1)",
           "d_x_part = np.concatenate([da_z, da_r, da_n], axis=-1)", "gru"),
    Mutant("lstm-slope-of-c", "c stands where tanh(c) is due: 1 − c² for 1 − tanh²(c).", TUTORIALS,
           LSTM, "act.state.derivative(c, tanh_c)", "act.state.derivative(c, c)", "lstm"),
    Mutant("lstm-wrong-c", "δ_f takes c of the same step for c of the step before.", HOMEWORK,
           LSTM, "dc * prev.c *", "dc * c *", "lstm"),
    Mutant("lstm-dc-not-forgotten", "∂L/∂c goes back without its factor f.", HOMEWORK,
           LSTM, "c=dc * f)", "c=dc)", "lstm"),
    Mutant("gru-bias-outside", "b_hn is differentiated as if it stood outside the reset gate.", KERNELS,
           WEIGHTS, '"bias_hh": rows(d_h_part).sum(0)', '"bias_hh": rows(d_x_part).sum(0)', "gru"),
    Mutant("gru-reset-before", "The reset gate is differentiated as if it stood before the matrix product.", KERNELS,
           GRU, "[da_r, da_z, da_n * r]", "[da_r, da_z, da_n]", "gru"),
    Mutant("gru-swapped-z", "z and 1 − z change places.", TUTORIALS, GRU, "d.h * (1 - z)", "d.h * z", "gru"),
    Mutant("gru-no-shortcut", "The path past the gates, ∂h'/∂h = z, is forgotten.", HOMEWORK,
           GRU, " + d.h * z", "", "gru"),
    Mutant("lost-repeats", "A repeated token's embedding keeps one gradient: assigned, not added.", HOMEWORK,
           LOOKED_UP, "np.add.at(gradient, tokens, d_x)", "gradient[tokens] = d_x", scope="model"),
    Mutant("tied-once", "Tied weights get the embedding's gradient and not the head's.", HOMEWORK,
           MODEL, "parameters.get(head_of(p), 0) + of_head", "parameters.get(head_of(p), of_head)", scope="tied"),
    Mutant("softmax-diagonal", "Each weight of attention is differentiated by its own score alone.", HOMEWORK,
           SEEN, "d_weights - (weights * d_weights).sum(axis=-1, keepdims=True)", "(1 - weights) * d_weights",
           scope="attention"),
    Mutant("future-unmasked", "The future is masked on the way forward, not on the way back.", KERNELS,
           LOOK, "softmax_backward(d @ v.swapaxes(1, 2), weights)",
           "softmax_backward(d @ v.swapaxes(1, 2), softmax(q @ k.swapaxes(1, 2), np.True_))", scope="attention"),
    Mutant("value-alone", "What a step sees counts as a value, not as a key.", TUTORIALS,
           LOOK, 'd_k @ p["key.weight"] + d_v', "d_v", scope="attention"),
    Mutant("query-forgotten", "A state counts as one that is seen, not as the one that asks.", TUTORIALS,
           LOOK, ' + d_q @ p["query.weight"]', "", scope="attention"),
    Mutant("divided-twice", "The loss is divided by T once too often.", TUTORIALS,
           SOFTMAX, "d_logits / targets.size", "d_logits / targets.size / len(targets)", scope="model"),
    Mutant("no-onehot", "The target is not subtracted from the probabilities.", TUTORIALS,
           SOFTMAX, "axis=-1) - 1, axis=-1)", "axis=-1), axis=-1)", scope="model"),
]  # fmt: skip


def mutated(mutant: Mutant) -> CodeType:
    source = textwrap.dedent(inspect.getsource(mutant.function))
    if source.count(mutant.true) != 1:
        raise ValueError(f"{mutant.name}: {mutant.true!r} is not in {mutant.function.__name__} exactly once")
    namespace: dict[str, Any] = {}
    exec(source.replace(mutant.true, mutant.false), mutant.function.__globals__, namespace)
    code: CodeType = namespace[mutant.function.__name__].__code__
    return code


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The bug is in the code inside the block: wherever the function has been imported, it is the same object."""
    true = mutant.function.__code__
    mutant.function.__code__ = mutated(mutant)
    try:
        yield
    finally:
        mutant.function.__code__ = true
