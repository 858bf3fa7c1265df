"""Layers by manual backpropagation through time, for speed: one autograd function a layer, its backward pass by hand.

Autograd would make a node of every operation of every step. Here a layer is a single node that walks through time in
chunks of a few steps. What enters and leaves a chunk is small enough to stay in the cache: inputs are projected, and
the gradients of weights summed, chunk by chunk. A chunk is made of torch's operations on whole tensors, those of
`models/steps.py`, or on a CPU with a compiler, of the kernels of `models/cpu_kernels.py`.

Letters: T steps, K those of a chunk, B batch, H hidden size, G gates.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from models import cpu_kernels
from models.cells import Cell
from models.projections import Projection, add_products, in_time
from models.steps import ACTIVATION_OF, STEPS, Step

STEPS_OF_A_CHUNK = 16  # at least: each has a price, as products of few rows are slow
VALUES_OF_A_CHUNK = 2**21  # of gates, in as many steps as are no more: they are to stay in the cache
NO_FORWARD_MODE = "this backend has no forward-mode derivatives: use backend='autograd'"


class Chunk:
    """A few steps of a layer, forward and back."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def weight_forward(self, weight: Tensor) -> Tensor:
        """W_hh (GH, H) as the forward pass reads it, and the backward pass, below."""
        return weight.T.contiguous()

    def weight_backward(self, weight: Tensor) -> Tensor:
        return weight

    def forward(
        self, projection: Projection, weight: Tensor, bias: Tensor, before: Sequence[Tensor], real: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What the steps keep (K, B, H) each, and the states (K + 1, B, H) each, from `before` to the last."""
        parts, kept, states = projection.parts(), [], [self.step.state(*before)]
        for t in range(len(parts)):
            from_h = states[-1].h.to(weight) @ weight + bias
            keeps, after = self.step.forward(parts[t], from_h, states[-1])
            kept.append(keeps)
            states.append(after if real is None else choose(real[t], after, states[-1]))
        return stacked(kept), stacked(states)

    def backward(
        self, kept: Sequence[Tensor], states: Sequence[Tensor], d_output: Tensor, d_last: Sequence[Tensor],
        weight: Tensor, real: Tensor | None,
    ) -> tuple[Tensor, Tensor, Any]:  # fmt: skip
        """∂L/∂(W_ih x + b_ih) and ∂L/∂(W_hh h + b_hh) of every step (K, B, GH), and ∂L/∂(state before the first)."""
        d_parts, d_from_hs, past = [], [], None
        state: Any = self.step.state
        d = state(*d_last)
        for t in reversed(range(len(d_output))):
            d = d._replace(h=d.h + d_output[t])
            if real is not None:  # where a step was not real, the state passed it by
                past, d = (state(*(part.masked_fill(mask, 0) for part in d)) for mask in (real[t], ~real[t]))
            before, after = (state(*(part[at] for part in states)) for at in (t, t + 1))
            d_part, d_from_h, d = self.step.backward(tuple(part[t] for part in kept), before, after, d)
            d = d._replace(h=d.h + d_from_h.to(weight) @ weight)  # ∂(W_hh h)/∂h = W_hh
            d = d if past is None else state(*(part + by for part, by in zip(d, past, strict=True)))
            d_parts.append(d_part)
            d_from_hs.append(d_from_h)
        same = d_parts[0] is d_from_hs[0]
        d_from_h = torch.stack(d_from_hs[::-1])
        return d_from_h if same else torch.stack(d_parts[::-1]), d_from_h, d


def choose(condition: Tensor, yes: Any, no: Any) -> Any:
    """Of two states, (B, H) each, the first's members where the condition (B, 1) holds, the second's elsewhere."""
    return type(yes)(*(torch.where(condition, *parts) for parts in zip(yes, no, strict=True)))


def stacked(of_steps: list[Any]) -> list[Tensor]:
    return [torch.stack(parts) for parts in zip(*of_steps, strict=True)]


class Recurrence(torch.autograd.Function):
    """What has no derivatives but the first, backward. Raises RuntimeError for others."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(NO_FORWARD_MODE)

    @classmethod
    def run(cls, state: Any, *inputs: Any) -> tuple[Tensor, Any]:
        """The output, and the last state, of the kind of the first."""
        try:
            output, *final = cls.apply(*inputs)
        except RuntimeError as error:  # torch.func asks for another kind of function before it asks for its derivative
            raise RuntimeError(NO_FORWARD_MODE) if "functorch" in str(error) else error from None
        return output, type(state)(*final)


def only_once() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("this backend has no second derivatives: use backend='autograd'")


class Unrolled(Recurrence):
    """A layer in one direction."""

    @staticmethod
    def forward(
        ctx: Any, cell: Cell, compiled: bool, real: Tensor | None, kind: type[Projection], weight: Tensor, bias: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.chunk = chunk_of(cell, weight, compiled)
        state, projection = list(tensors[: len(cell.state._fields)]), kind(*tensors[len(cell.state._fields) :])
        ahead, outputs, saved = ctx.chunk.weight_forward(weight), [], []
        T, B = projection[0].shape[:2]
        K = max(STEPS_OF_A_CHUNK, VALUES_OF_A_CHUNK // max(1, B * len(weight)))
        spans = [slice(t, t + K) for t in range(0, T, K)]
        for t in spans:
            real_t = None if real is None else real[t]
            kept, states = ctx.chunk.forward(in_time(projection, itemgetter(t)), ahead, bias, state, real_t)
            state = [part[-1] for part in states]
            outputs.append(states[0][1:])
            saved += [*kept, *states]
        ctx.real, ctx.kind, ctx.spans, ctx.keeps = real, kind, spans, len(kept)
        ctx.save_for_backward(weight, *projection, *saved)
        return torch.cat(outputs), *(part.clone() for part in state)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, *d: Tensor) -> tuple[Tensor | None, ...]:
        only_once()
        d_output, d_state = d_output.contiguous(), [part.contiguous() for part in d]
        weight, *tensors = ctx.saved_tensors
        back = ctx.chunk.weight_backward(weight)
        fields = len(ctx.kind._fields)
        projection, saved = ctx.kind(*tensors[:fields]), tensors[fields:]
        d_projection = projection.no_gradients(ctx.needs_input_grad[-fields:])
        d_weight, d_bias = (torch.zeros_like(of, dtype=d_output.dtype) for of in (weight, weight[:, 0]))
        each = len(saved) // len(ctx.spans)
        for number, t in reversed([*enumerate(ctx.spans)]):
            kept_and_states = saved[number * each : (number + 1) * each]
            kept, states = kept_and_states[: ctx.keeps], kept_and_states[ctx.keeps :]
            real_t = None if ctx.real is None else ctx.real[t]
            d_parts, d_from_h, d_state = ctx.chunk.backward(kept, states, d_output[t], [*d_state], back, real_t)
            d_from_h = d_from_h.to(weight)
            add_products(d_weight, d_from_h, states[0][:-1])
            if d_from_h is not d_parts:
                d_bias += d_from_h.sum((0, 1))
            projection.share_out(d_projection, t, d_parts)
        if d_from_h is d_parts:  # not in a GRU: b_hh is added where b_ih is
            d_bias = projection.d_bias(d_projection)
        return None, None, None, None, d_weight, d_bias, *d_state, *d_projection


def chunk_of(cell: Cell, weight: Tensor, compiled: bool) -> Any:
    """The kernels where they are wanted, and there are any; else torch's operations."""
    kernels = cpu_kernels.chunk_of(cell, weight) if compiled else None
    return kernels or Chunk(STEPS[type(cell)](ACTIVATION_OF[cell.gate_activation], ACTIVATION_OF[cell.activation]))


def unroll(
    cell: Cell, projection: Projection, state: Any, real: Tensor | None = None, compiled: bool = False
) -> tuple[Tensor, Any]:
    """As `models.recurrent.unroll`, with every h in one tensor (T, B, H)."""
    weights: list[Tensor] = [cell.weight_hh, cell.bias_hh]
    device = cell.weight_hh.device.type
    if torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)  # of products; sums and states stay as precise as they are
        weights = [weight.to(low) for weight in weights]
        projection = type(projection)(*(part.to(low) if part.is_floating_point() else part for part in projection))
    with torch.autocast(device, enabled=False):
        return Unrolled.run(state, cell, compiled, real, type(projection), *weights, *state, *projection)
