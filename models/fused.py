"""The recurrence of each layer as one autograd function: backpropagation through time written out by hand, for speed.

Autograd would make a node of every operation of every step. Here a layer is a single node: the forward pass writes into
buffers of the whole sequence; the backward pass computes all that does not depend on what comes back in a few large
operations, walks from the last step to the first with the few that do, and forms each weight's gradient in one matrix
product at the end. The mathematics is that of `models/cells.py`, the letters too: T steps, B batch, H hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.cells import ACTIVATIONS, Cell, GRUCell, LSTMCell, RNNCell

Function = Callable[[Tensor], Tensor]
IN_PLACE: dict[Function, Callable[[Tensor], Tensor]] = {
    torch.sigmoid: torch.sigmoid_,
    torch.tanh: torch.tanh_,
    torch.relu: torch.relu_,
}
SLOPES: dict[Function, Callable[[Tensor, Tensor], Tensor]] = {  # of y = f(a)
    torch.sigmoid: lambda a, y: y * (1 - y),
    torch.tanh: lambda a, y: 1 - y * y,
    torch.relu: lambda a, y: (y > 0).to(y),
    ACTIVATIONS["identity"]: lambda a, y: torch.ones_like(y),
    ACTIVATIONS["hard_sigmoid"]: lambda a, y: ((a >= -2) & (a <= 2)).to(a) / 4,
    ACTIVATIONS["hard_tanh"]: lambda a, y: ((a >= -1) & (a <= 1)).to(a),
}
NEED_A = {ACTIVATIONS["hard_sigmoid"], ACTIVATIONS["hard_tanh"]}  # at a kink, y does not tell on which side a is


NO_FORWARD_MODE = "the fused backend has no forward-mode derivatives: use backend='autograd'"


def apply_(function: Function, a: Tensor) -> Tensor:
    """f(a), in the place of a."""
    return IN_PLACE[function](a) if function in IN_PLACE else a.copy_(function(a))


def into(place: Tensor, function: Function, a: Tensor) -> None:
    if function is torch.tanh:
        torch.tanh(a, out=place)
    else:
        place.copy_(function(a))


class Recurrence(torch.autograd.Function):
    """What the three have in common: no derivatives but the first, backward. Raises RuntimeError for others."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(NO_FORWARD_MODE)


def only_once() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("the fused backend has no second derivatives: use backend='autograd'")


def sum_of_products(d: Tensor, read: Tensor) -> Tensor:
    """Σ_t Σ_b d readᵀ: (T, B, G), (T, B, H) → (G, H)."""
    return d.flatten(0, 1).T @ read.flatten(0, 1)


def before_each(d_output: Tensor) -> list[Tensor]:
    """∂L/∂h of the output at t − 1, for each step t going back; nothing before the first."""
    return [*reversed(d_output[:-1].unbind()), torch.zeros_like(d_output[0])]


def flags(real: Tensor | None, T: int) -> list[Tensor | None]:
    """For each step, which members take it (B, 1); nothing, where all take all."""
    return [None] * T if real is None else list(real.unbind())


def stay(real: Tensor | None, after: Tensor, before: Tensor) -> None:
    """Puts the old state back where a step was not real."""
    if real is not None:
        torch.where(real, after, before, out=after)


def arriving(d_out: Tensor, d_h: Tensor, real: Tensor | None) -> Tensor:
    """∂L/∂h of the output before this step, and past the step itself where it was not real."""
    return d_out if real is None else d_out + d_h.masked_fill(real, 0)


def silence(real: Tensor | None, *slopes: Tensor) -> None:
    """A step that was not real has no slope."""
    if real is not None:
        for slope in slopes:
            slope.masked_fill_(~real, 0)


def pass_on(real: Tensor | None, gate: Tensor) -> Tensor:
    """The gate that keeps a state, which is open where a step was not real."""
    return gate if real is None else gate.masked_fill(~real, 1)


class RNNRecurrence(Recurrence):
    """h' = f(x_part + W_hh h + b_hh)"""

    @staticmethod
    def forward(
        ctx: Any, gate: Function, act: Function, real: Tensor | None,
        x_parts: Tensor, weight: Tensor, bias: Tensor, h: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        hs = torch.cat([h[None], x_parts + bias])  # (T + 1, B, H): each step's place holds what comes from its input
        a = hs[1:].clone() if act in NEED_A else None
        transposed = weight.T.contiguous()
        for t, (before, after, real_t) in enumerate(
            zip(hs[:-1].unbind(), hs[1:].unbind(), flags(real, len(x_parts)), strict=True)
        ):
            after.addmm_(before, transposed)
            if a is not None:
                a[t] = after
            apply_(act, after)
            stay(real_t, after, before)
        ctx.act, ctx.real = act, real
        ctx.save_for_backward(hs, weight, *([] if a is None else [a]))
        return hs[1:], hs[-1].clone()

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        only_once()
        hs, weight, *a = ctx.saved_tensors
        d = SLOPES[ctx.act](a[0] if a else hs[1:], hs[1:])  # (T, B, H): ∂h'/∂a
        silence(ctx.real, d)
        d_h = d_h + d_output[-1]
        for d_a, d_out, real_t in zip(
            reversed(d.unbind()), before_each(d_output), reversed(flags(ctx.real, len(d))), strict=True
        ):
            torch.addmm(arriving(d_out, d_h, real_t), d_a.mul_(d_h), weight, out=d_h)
        return None, None, None, d, sum_of_products(d, hs[:-1]), d.sum((0, 1)), d_h


class GRURecurrence(Recurrence):
    """r, z = σ(x_rz + W_h,rz h + b_h,rz), n = f(x_n + r ∘ (W_hn h + b_hn)), h' = (1 − z) ∘ n + z ∘ h"""

    @staticmethod
    def forward(
        ctx: Any, gate: Function, act: Function, real: Tensor | None,
        x_parts: Tensor, weight: Tensor, bias: Tensor, h: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        (T, B, _), H = x_parts.shape, h.shape[-1]
        y = x_parts.clone()  # (T, B, 3H): becomes r, z, n
        a = torch.empty_like(y) if {gate, act} & NEED_A else None
        h_n, hs = y.new_empty(T, B, H), torch.cat([h[None], y.new_empty(T, B, H)])
        transposed, h_part, keep = weight.T.contiguous(), y.new_empty(B, 3 * H), y.new_empty(B, H)
        one = y.new_ones(())
        h_rz, from_h = h_part[:, : 2 * H], h_part[:, 2 * H :]
        steps = zip(*(of.unbind() for of in (y, h_n, hs[:-1], hs[1:])), flags(real, len(x_parts)), strict=True)
        for t, (y_t, h_n_t, before, after, real_t) in enumerate(steps):
            torch.addmm(bias, before, transposed, out=h_part)
            rz, n = y_t[:, : 2 * H].add_(h_rz), y_t[:, 2 * H :]
            if a is not None:
                a[t, :, : 2 * H] = rz
            apply_(gate, rz)
            h_n_t.copy_(from_h)
            n.addcmul_(rz[:, :H], from_h)
            if a is not None:
                a[t, :, 2 * H :] = n
            apply_(act, n)
            z = rz[:, H:]
            torch.mul(z, before, out=after)
            after.addcmul_(torch.sub(one, z, out=keep), n)
            stay(real_t, after, before)
        ctx.functions, ctx.real = (gate, act), real
        ctx.save_for_backward(y, h_n, hs, weight, *([] if a is None else [a]))
        return hs[1:], hs[-1].clone()

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        only_once()
        y, h_n, hs, weight, *a = ctx.saved_tensors
        gate, act = ctx.functions
        (r, z, n), H = y.chunk(3, -1), hs.shape[-1]
        a_r, a_z, a_n = (a[0] if a else y).chunk(3, -1)
        d = torch.empty_like(y)  # (T, B, 3H): first ∂h'/∂(W_hh h + b_hh), then that times ∂L/∂h'
        d_n = (1 - z) * SLOPES[act](a_n, n)  # ∂h'/∂a_n
        torch.mul(d_n * h_n, SLOPES[gate](a_r, r), out=d[..., :H])
        torch.mul(hs[:-1] - n, SLOPES[gate](a_z, z), out=d[..., H : 2 * H])
        torch.mul(d_n, r, out=d[..., 2 * H :])
        silence(ctx.real, d, d_n)
        z = pass_on(ctx.real, z)
        d_h = d_h + d_output[-1]
        by_gate, d_h_of_gates = d.unflatten(-1, (3, H)), d_h[:, None]  # a view: it changes with d_h
        steps = (reversed(of.unbind()) for of in (d, by_gate, z, d_n))
        for d_t, by_gate_t, z_t, d_n_t, d_out in zip(*steps, before_each(d_output), strict=True):
            by_gate_t.mul_(d_h_of_gates)
            d_n_t.mul_(d_h)
            torch.addcmul(d_out, d_h, z_t, out=d_h).addmm_(d_t, weight)
        d_x = torch.cat([d[..., : 2 * H], d_n], dim=-1)
        return None, None, None, d_x, sum_of_products(d, hs[:-1]), d.sum((0, 1)), d_h


class LSTMRecurrence(Recurrence):
    """i, f, o = σ(a), g = act(a), a = x_part + W_hh h + b_hh, c' = f ∘ c + i ∘ g, h' = o ∘ act(c')"""

    @staticmethod
    def forward(
        ctx: Any, gate: Function, act: Function, real: Tensor | None,
        x_parts: Tensor, weight: Tensor, bias: Tensor, h: Tensor, c: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        (T, B, _), H = x_parts.shape, h.shape[-1]
        y = x_parts + bias  # (T, B, 4H): becomes i, f, -, o, where the room of g is not looked at again
        a = torch.empty_like(y) if {gate, act} & NEED_A else None
        g, squashed = y.new_empty(2, T, B, H)  # squashed is act(c')
        hs, cs = (torch.cat([first[None], y.new_empty(T, B, H)]) for first in (h, c))
        transposed = weight.T.contiguous()
        i, f, a_g, o = (block.unbind() for block in y.chunk(4, -1))
        h_t, c_t, y_t, g_t, s_t = (of.unbind() for of in (hs, cs, y, g, squashed))
        for t, real_t in zip(range(T), flags(real, len(x_parts)), strict=True):
            y_t[t].addmm_(h_t[t], transposed)
            if a is not None:
                a[t] = y_t[t]
            into(g_t[t], act, a_g[t])
            apply_(gate, y_t[t])
            torch.mul(f[t], c_t[t], out=c_t[t + 1]).addcmul_(i[t], g_t[t])
            into(s_t[t], act, c_t[t + 1])
            torch.mul(o[t], s_t[t], out=h_t[t + 1])
            stay(real_t, c_t[t + 1], c_t[t])
            stay(real_t, h_t[t + 1], h_t[t])
        ctx.functions, ctx.real = (gate, act), real
        ctx.save_for_backward(y, g, squashed, hs, cs, weight, *([] if a is None else [a]))
        return hs[1:], hs[-1].clone(), cs[-1].clone()

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        only_once()
        y, g, squashed, hs, cs, weight, *a = ctx.saved_tensors
        gate, act = ctx.functions
        (i, f, _, o), H = y.chunk(4, -1), hs.shape[-1]
        a_i, a_f, a_g, a_o = (a[0] if a else y).chunk(4, -1)
        c_from_h = o * SLOPES[act](cs[1:], squashed)  # (T, B, H): ∂h'/∂c'
        d = torch.empty_like(y)  # (T, B, 4H): first ∂c'/∂a, and for o ∂h'/∂a; then ∂L/∂a
        torch.mul(g, SLOPES[gate](a_i, i), out=d[..., :H])
        torch.mul(cs[:-1], SLOPES[gate](a_f, f), out=d[..., H : 2 * H])
        torch.mul(i, SLOPES[act](a_g, g), out=d[..., 2 * H : 3 * H])
        torch.mul(squashed, SLOPES[gate](a_o, o), out=d[..., 3 * H :])
        silence(ctx.real, d, c_from_h)
        f = pass_on(ctx.real, f)
        d_h, d_c = d_h + d_output[-1], d_c.clone()
        by_gate = d.unflatten(-1, (4, H))
        steps = (reversed(of.unbind()) for of in (d, by_gate[:, :, :3], by_gate[:, :, 3], c_from_h, f))
        d_c_of_gates = d_c[:, None]  # a view: it changes with d_c
        walk = zip(*steps, before_each(d_output), reversed(flags(ctx.real, len(d))), strict=True)
        for d_t, i_f_g, of_o, k, f_t, d_out, real_t in walk:
            d_c.addcmul_(d_h, k)
            i_f_g.mul_(d_c_of_gates)
            of_o.mul_(d_h)
            torch.addmm(arriving(d_out, d_h, real_t), d_t, weight, out=d_h)
            d_c.mul_(f_t)
        return None, None, None, d, sum_of_products(d, hs[:-1]), d.sum((0, 1)), d_h, d_c


RECURRENCES: dict[type[Cell], Any] = {RNNCell: RNNRecurrence, GRUCell: GRURecurrence, LSTMCell: LSTMRecurrence}


def unroll(cell: Cell, x_parts: Tensor, state: Any, real: Tensor | None = None) -> tuple[Tensor, Any]:
    """As `models.recurrent.unroll`, with every h in one tensor (T, B, H)."""
    recurrence, functions = RECURRENCES[type(cell)], (cell.gate_activation, cell.activation)
    try:
        output, *final = recurrence.apply(*functions, real, x_parts, cell.weight_hh, cell.bias_hh, *state)
    except RuntimeError as error:  # torch.func asks for another kind of function before it asks for its derivative
        raise RuntimeError(NO_FORWARD_MODE) if "functorch" in str(error) else error from None
    return output, type(state)(*final)
