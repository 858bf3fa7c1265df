"""What happens inside a language model while it reads, step by step: states and gates, and each layer's way back.

The cells are run one step at a time, as they are written in `models/cells.py`, so that nothing is hidden; and as when
the model predicts: nothing is dropped. Letters: T steps, B batch, L layers, H hidden size, G gates; M remembered
states and A seen ones of attention; R rows: cotangents that go back side by side.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import CausalAttention
from models.cells import Cell, GRUCell, LSTMCell, LSTMState
from models.language_model import AttentiveState, LanguageModel
from models.recurrent import stack

CANDIDATES = ("h", "n", "g")  # of each cell the affine map that `activation` is applied to: what is proposed to it
BLOCK = 256  # steps for which attention's scores are in memory at a time


class Layer(NamedTuple):
    """One layer, and all that it read and became."""

    cell: Cell
    x_parts: Tensor  # (T, B, GH): W_ih x + b_ih
    initial: Any  # the state before the first step, (B, H) each
    states: list[Any]  # the state after each step, (B, H) each

    def before(self) -> Any:
        """The state that each step started from, (T, B, H) each."""
        return stack([self.initial, *self.states[:-1]])

    def after(self) -> Any:
        """The state after each step, (T, B, H) each."""
        return stack(self.states)


class Recording(NamedTuple):
    layers: list[Layer]  # from the first to the last
    hidden: Tensor  # (T, B, H): what the head reads
    memory: Tensor  # (M, B, H): the states of the last layer that attention remembered before the first step
    weights: Tensor | None  # (T, B, A): attention's, by how many steps back it looks
    final: Any  # the model's state after the last step

    def state_before(self, steps: Tensor) -> Any:
        """The model's state before each of these steps (R), of a text that was read alone: (L, R, H) each.

        With attention there is one memory length for all rows: either each of the steps has a full one, or all are the
        same step.
        """
        befores = [layer.before() for layer in self.layers]
        state = stack([type(before)(*(part[steps, 0] for part in before)) for before in befores])
        if self.weights is None:
            return state
        seen = torch.cat([self.memory, self.layers[-1].after().h])[:, 0]  # (M + T, H)
        length = min(self.weights.shape[-1] - 1, len(self.memory) + int(steps.min()))
        ago = torch.arange(-length, 0, device=steps.device)[:, None]
        return AttentiveState(state, seen[len(self.memory) + steps + ago])


def record(model: LanguageModel, tokens: Tensor, state: Any = None, kept: Tensor | None = None) -> Recording:
    """Reads tokens (T, B), as `record_inputs` does."""
    return record_inputs(model, inputs(model, tokens), state, kept)


def inputs(model: LanguageModel, tokens: Tensor) -> Tensor:
    """x (..., E): what the first layer reads of tokens (...)."""
    if model.embedding:
        return model.embedding(tokens)
    return F.one_hot(tokens, model.hparams["vocab_size"]).to(model.head.weight)


def record_inputs(model: LanguageModel, x: Tensor, state: Any = None, kept: Tensor | None = None) -> Recording:
    """Reads x (T, B, E) from a state of the model's, zeros if it is left out.

    `kept` (L, B, H) is what each unit's h is multiplied by on every step: 0 silences it. Autograd follows every state.
    """
    before, memory = state if model.attention and state is not None else (state, None)
    initial = model.recurrent.initial_state(x.shape[1]) if before is None else before
    layers: list[Layer] = []
    for place, (cell,) in enumerate(model.recurrent.layers()):
        x_parts = cell.project(layers[-1].after().h if place else x)
        first = cell.state(*(part[place] for part in initial))
        layers.append(
            Layer(cell, x_parts, first, unrolled(cell, x_parts, first, None if kept is None else kept[place]))
        )
    hidden, final = layers[-1].after().h, stack([layer.states[-1] for layer in layers])
    memory = hidden[:0] if memory is None else memory
    if model.attention is None:
        return Recording(layers, hidden, memory, None, final)
    read, weights, later = attended(model.attention, hidden, memory)
    return Recording(layers, read, memory, weights, AttentiveState(final, later))


def unrolled(cell: Cell, x_parts: Tensor, state: Any, kept: Tensor | None) -> list[Any]:
    """Every state of a layer, (B, H) each."""
    states = []
    for x_part in x_parts.unbind():
        state = cell.step(x_part, state)
        state = state if kept is None else state._replace(h=state.h * kept)
        states.append(state)
    return states


def attended(attention: CausalAttention, h: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the head reads of h (T, B, H), attention's weights (T, B, A) by how many steps back they look, and the
    memory after the last step."""
    outputs, found, sight = [], [], min(attention.span, len(memory) + len(h))
    for part in h.split(BLOCK):
        own = torch.arange(len(memory), len(memory) + len(part), device=h.device)[:, None]
        at = own - torch.arange(sight, device=h.device)  # (T, A): which of the states that are seen
        output, memory, weights = attention(part, memory)  # weights (T, B, M + T)
        looks = weights.gather(-1, at.clamp(min=0)[:, None].expand(-1, h.shape[1], -1))
        outputs.append(output)
        found.append(looks.masked_fill((at < 0)[:, None], 0))
    return torch.cat(outputs), torch.cat(found), memory


class Gate(NamedTuple):
    """One of a cell's affine maps at every step, and what it becomes: y = f(a). (T, B, H) each."""

    recurrent: Tensor  # W_hh h + b_hh
    a: Tensor
    y: Tensor
    slope: Tensor  # f'(a)


def gates(layer: Layer) -> dict[str, Gate]:
    """Those of a layer by the names that the cell has for them: the equations of `models/cells.py`, all steps at once.

        a = W_ih x + b_ih + W_hh h + b_hh

    holds all of a, block by block, but for that of a GRU's n:

        a_n = W_in x + b_in + r ∘ (W_hn h + b_hn)
    """
    cell, found = layer.cell, dict[str, Gate]()
    count = len(cell.gates)
    parts = layer.x_parts.chunk(count, -1), cell.recur(layer.before().h).chunk(count, -1)
    for name, x_part, h_part in zip(cell.gates, *parts, strict=True):
        function = cell.activation if name in CANDIDATES else cell.gate_activation
        a = x_part + (found["r"].y * h_part if name == "n" else h_part)
        y = function(a)
        found[name] = Gate(h_part, a, y, slope(function, a))
    return found


@torch.enable_grad()
def slope(function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """f'(a) of a function that acts on each element."""
    leaf = a.detach().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


WayBack = Callable[[int, Any], tuple[Any, Tensor, Any]]


def way_back(layer: Layer) -> WayBack:
    """The step backward of a layer that read one text alone, by hand, for any number of cotangents at once.

    It takes a step t and the cotangents (R, H) of each member of the state after it. It returns what each member of
    that state is worth in all, where c counts by itself and in h; the cotangents of W_ih x + b_ih (R, GH); and those of
    the state before the step. What does not depend on cotangents is computed for all steps at once.
    """
    with_gates: dict[type[Cell], Callable[[Layer, dict[str, Gate]], WayBack]] = {GRUCell: gru_back, LSTMCell: lstm_back}
    return with_gates.get(type(layer.cell), rnn_back)(layer, gates(layer))


def rnn_back(layer: Layer, gate: dict[str, Gate]) -> WayBack:
    weight, by_a = layer.cell.weight_hh, gate["h"].slope  # ∂h'/∂a

    def back(t: int, d: Any) -> tuple[Any, Tensor, Any]:
        d_a = d.h * by_a[t]
        return d, d_a, d._replace(h=d_a @ weight)

    return back


def gru_back(layer: Layer, gate: dict[str, Gate]) -> WayBack:
    weight, size = layer.cell.weight_hh, layer.cell.hidden_size
    (r, z, n), h = (gate[name] for name in "rzn"), layer.before().h
    by_n = (1 - z.y) * n.slope  # ∂h'/∂a_n
    by_part = torch.stack([by_n * n.recurrent * r.slope, (h - n.y) * z.slope, by_n * r.y], -2)  # of W_hh h + b_hh

    def back(t: int, d: Any) -> tuple[Any, Tensor, Any]:
        d_part = (d.h[:, None] * by_part[t]).flatten(1)  # (R, 3H)
        d_x_part = torch.cat([d_part[:, : 2 * size], d.h * by_n[t]], dim=-1)
        return d, d_x_part, d._replace(h=d_part @ weight + d.h * z.y[t])

    return back


def lstm_back(layer: Layer, gate: dict[str, Gate]) -> WayBack:
    weight, function = layer.cell.weight_hh, layer.cell.activation
    (i, f, g, o), c, c_before = (gate[name] for name in "ifgo"), layer.after().c, layer.before().c
    squashed = function(c)
    c_in_h = o.y * slope(function, c)  # ∂h'/∂c'
    by_c = torch.stack([g.y * i.slope, c_before * f.slope, i.y * g.slope], -2)  # (T, 1, 3, H): ∂c'/∂a_i, a_f, a_g
    by_h = squashed * o.slope  # ∂h'/∂a_o

    def back(t: int, d: Any) -> tuple[Any, Tensor, Any]:
        d_c = d.c + d.h * c_in_h[t]
        d_a = torch.cat([(d_c[:, None] * by_c[t]).flatten(1), d.h * by_h[t]], dim=-1)  # (R, 4H)
        return LSTMState(d.h, d_c), d_a, LSTMState(d_a @ weight, d_c * f.y[t])

    return back


def jacobians(layer: Layer, part: str, steps: int) -> Tensor:
    """∂h_T/∂h_t, or ∂c_T/∂c_t, of a layer that read one text alone, for t = T, T − 1, …: (steps, H, H).

    Of the two members of an LSTM's state each is taken with the other held, but that c counts in its own h, too.
    """
    back, T, one = way_back(layer), len(layer.states), torch.eye(layer.cell.hidden_size).to(layer.x_parts)
    d, found = layer.initial._make(one if other == part else one * 0 for other in layer.initial._fields), []
    for t in reversed(range(T - steps, T)):
        whole, _, d = back(t, d)
        found.append(getattr(whole, part))
    return torch.stack(found)
