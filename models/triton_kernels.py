# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, assignment"
"""The recurrences once more as kernels for GPUs, in Triton: forward and backward in as few launches as can be.

One kernel, `walk`, goes along a sequence in either direction. At each step a program multiplies what the step before
left (h; on the way back ∂L/∂(W_hh h + b_hh)) by its columns of the weight, and hands the product to the equations of a
cell, one function a step, which read and write its tile of everything else. All that passes from step to step lies in
memory, past the L1 cache, most of it because the backward pass needs it anyway. So a kernel does not know how its
programs meet between steps, and there are three ways: a program that has all columns meets itself; several meet at a
counter, which takes a cooperative launch; or each step is a launch of its own.

Sums are float32, or float64 of float64, and so is c. Products of float32 are as torch's `set_float32_matmul_precision`
has them. With TRITON_INTERPRET=1 in the environment when this is imported, all of it runs on a CPU: slowly, for tests.
"""

from itertools import chain
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.cells import ACTIVATIONS, Cell, GRUCell, LSTMCell, RNNCell
from models.fused import Recurrence, only_once

NAMES = {function: name for name, function in ACTIVATIONS.items()}


@triton.jit
def value(a, F: tl.constexpr):
    """f(a), where F names f. No exponential overflows; σ and tanh are exact at 0 and far out, else within a few u."""
    if F == "sigmoid":
        e = tl.exp(-tl.abs(a))
        return tl.where(a < 0, e, 1) / (1 + e)
    elif F == "tanh":
        e = tl.exp(-2 * tl.abs(a))
        return tl.where(a < 0, e - 1, 1 - e) / (1 + e)
    elif F == "hard_sigmoid":
        return tl.minimum(tl.maximum((a + 2) / 4, 0), 1)
    elif F == "hard_tanh":
        return tl.minimum(tl.maximum(a, -1), 1)
    elif F == "relu":
        return tl.maximum(a, 0)
    else:
        return a


@triton.jit
def slope(saved, y, F: tl.constexpr):
    """∂f/∂a, from y = f(a) and what was saved of it."""
    if F == "sigmoid":
        return y * (1 - y)
    elif F == "tanh":
        return 1 - y * y
    elif F == "hard_sigmoid":
        return tl.where((saved >= -2) & (saved <= 2), 0.25, 0.0).to(y.dtype)
    elif F == "hard_tanh":
        return tl.where((saved >= -1) & (saved <= 1), 1.0, 0.0).to(y.dtype)
    elif F == "relu":
        return tl.where(y > 0, 1.0, 0.0).to(y.dtype)
    else:
        return tl.full(y.shape, 1, y.dtype)


@triton.jit
def to_save(a, y, F: tl.constexpr):
    """y, but a of the hard functions: at a kink, y does not tell on which side a is."""
    return a if F == "hard_sigmoid" or F == "hard_tanh" else y


@triton.jit
def again(saved, F: tl.constexpr):
    """y from what was saved of it."""
    return value(saved, F) if F == "hard_sigmoid" or F == "hard_tanh" else saved


@triton.jit
def choose(real, yes, no):
    """One value where a step is real, the other where it is padding."""
    return yes if real is None else tl.where(real, yes, no)


@triton.jit
def get(pointers, inside, like):
    """A tile, read past the L1 cache, in the precision of another."""
    return tl.load(pointers, mask=inside, other=0, cache_modifier=".cg").to(like.dtype)


class Forward(NamedTuple):
    """What the steps forward read and write, all contiguous. None is what a cell has no use for."""

    x_parts: Tensor  # (T, B, GH)
    saved: Tensor  # (T, B, GH)
    h_n: Tensor | None  # (T, B, H)
    hs: Tensor  # (T + 1, B, H): the first is given, as is that of cs
    cs: Tensor | None = None


class Back(NamedTuple):
    """What the steps back read and write."""

    d_output: Tensor  # (T, B, H)
    d: Tensor  # (T + 1, B, GH): ∂L/∂(W_hh h + b_hh), the last of which is 0
    d_x: Tensor  # (T, B, GH): ∂L/∂x_part, which is the same but for the GRU
    saved: Tensor
    h_n: Tensor | None
    hs: Tensor
    d_h: Tensor  # (B, H): what of ∂L/∂h comes back past the products; d_c: all of ∂L/∂c
    cs: Tensor | None = None
    d_c: Tensor | None = None


@triton.jit
def rnn_step(h_parts, real, at, n, H: tl.constexpr, GATE: tl.constexpr, ACT: tl.constexpr):
    """The equation of `models.steps.RNNStep`, where `h_parts` are what comes from state."""
    _, before, after, gates, inside = at
    a = get(n.x_parts + gates, inside, h_parts[0]) + h_parts[0]
    h = choose(real, value(a, ACT), get(n.hs + before, inside, a))
    tl.store(n.saved + gates, to_save(a, h, ACT), inside)  # the same number in the same place, but for hard functions
    tl.store(n.hs + after, h, inside)


@triton.jit
def rnn_step_back(product, real, at, n, H: tl.constexpr, GATE: tl.constexpr, ACT: tl.constexpr):
    member, before, _, gates, inside = at
    d_h = product[0] + get(n.d_h + member, inside, product[0]) + get(n.d_output + before, inside, product[0])
    saved = get(n.saved + gates, inside, d_h)
    tl.store(n.d + gates, choose(real, d_h * slope(saved, again(saved, ACT), ACT), 0), inside)
    tl.debug_barrier()  # zeros wait for nothing: not even for the threads that still have to read what was there
    tl.store(n.d_h + member, choose(real, 0, d_h), inside)


@triton.jit
def gru_step(h_parts, real, at, n, H: tl.constexpr, GATE: tl.constexpr, ACT: tl.constexpr):
    """The equations of `models.steps.GRUStep`."""
    _, before, after, gates, inside = at
    h_r, h_z, h_n = h_parts
    h_before = get(n.hs + before, inside, h_n)
    a_r = get(n.x_parts + gates, inside, h_n) + h_r
    a_z = get(n.x_parts + gates + H, inside, h_n) + h_z
    r, z = value(a_r, GATE), value(a_z, GATE)
    a_n = get(n.x_parts + gates + 2 * H, inside, h_n) + r * h_n
    new = value(a_n, ACT)
    tl.store(n.saved + gates, to_save(a_r, r, GATE), inside)
    tl.store(n.saved + gates + H, to_save(a_z, z, GATE), inside)
    tl.store(n.saved + gates + 2 * H, to_save(a_n, new, ACT), inside)
    tl.store(n.h_n + before, h_n, inside)
    tl.store(n.hs + after, choose(real, (1 - z) * new + z * h_before, h_before), inside)


@triton.jit
def gru_step_back(product, real, at, n, H: tl.constexpr, GATE: tl.constexpr, ACT: tl.constexpr):
    member, before, _, gates, inside = at
    d_h = product[0] + get(n.d_h + member, inside, product[0]) + get(n.d_output + before, inside, product[0])
    saved_r = get(n.saved + gates, inside, d_h)
    saved_z = get(n.saved + gates + H, inside, d_h)
    saved_n = get(n.saved + gates + 2 * H, inside, d_h)
    r, z, new = again(saved_r, GATE), again(saved_z, GATE), again(saved_n, ACT)
    d_n = choose(real, d_h * (1 - z) * slope(saved_n, new, ACT), 0)  # ∂h'/∂n = 1 − z
    d_z = choose(real, d_h * (get(n.hs + before, inside, d_h) - new) * slope(saved_z, z, GATE), 0)  # ∂h'/∂z = h − n
    d_r = d_n * get(n.h_n + before, inside, d_h) * slope(saved_r, r, GATE)  # ∂a_n/∂r = W_hn h + b_hn
    tl.store(n.d + gates, d_r, inside)
    tl.store(n.d + gates + H, d_z, inside)
    tl.store(n.d + gates + 2 * H, d_n * r, inside)
    tl.store(n.d_x + gates, d_r, inside)
    tl.store(n.d_x + gates + H, d_z, inside)
    tl.store(n.d_x + gates + 2 * H, d_n, inside)
    tl.store(n.d_h + member, choose(real, d_h * z, d_h), inside)


@triton.jit
def lstm_step(h_parts, real, at, n, H: tl.constexpr, GATE: tl.constexpr, ACT: tl.constexpr):
    """The equations of `models.steps.LSTMStep`."""
    _, before, after, gates, inside = at
    h_i, h_f, h_g, h_o = h_parts
    a_i = get(n.x_parts + gates, inside, h_i) + h_i
    a_f = get(n.x_parts + gates + H, inside, h_f) + h_f
    a_g = get(n.x_parts + gates + 2 * H, inside, h_g) + h_g
    a_o = get(n.x_parts + gates + 3 * H, inside, h_o) + h_o
    i, f, g, o = value(a_i, GATE), value(a_f, GATE), value(a_g, ACT), value(a_o, GATE)
    c_before = get(n.cs + before, inside, i)
    c = f * c_before + i * g
    h = o * value(c, ACT)
    tl.store(n.saved + gates, to_save(a_i, i, GATE), inside)
    tl.store(n.saved + gates + H, to_save(a_f, f, GATE), inside)
    tl.store(n.saved + gates + 2 * H, to_save(a_g, g, ACT), inside)
    tl.store(n.saved + gates + 3 * H, to_save(a_o, o, GATE), inside)
    tl.store(n.cs + after, choose(real, c, c_before), inside)
    tl.store(n.hs + after, choose(real, h, get(n.hs + before, inside, h)), inside)


@triton.jit
def lstm_step_back(product, real, at, n, H: tl.constexpr, GATE: tl.constexpr, ACT: tl.constexpr):
    member, before, after, gates, inside = at
    d_h = product[0] + get(n.d_h + member, inside, product[0]) + get(n.d_output + before, inside, product[0])
    d_c_after = get(n.d_c + member, inside, d_h)
    saved_i = get(n.saved + gates, inside, d_h)
    saved_f = get(n.saved + gates + H, inside, d_h)
    saved_g = get(n.saved + gates + 2 * H, inside, d_h)
    saved_o = get(n.saved + gates + 3 * H, inside, d_h)
    i, f, g, o = again(saved_i, GATE), again(saved_f, GATE), again(saved_g, ACT), again(saved_o, GATE)
    c, c_before = get(n.cs + after, inside, d_h), get(n.cs + before, inside, d_h)
    squashed = value(c, ACT)
    d_c = d_c_after + d_h * o * slope(c, squashed, ACT)  # ∂h'/∂c' = o ∘ act'(c')
    tl.store(n.d + gates, choose(real, d_c * g * slope(saved_i, i, GATE), 0), inside)  # ∂c'/∂i = g
    tl.store(n.d + gates + H, choose(real, d_c * c_before * slope(saved_f, f, GATE), 0), inside)  # ∂c'/∂f = c
    tl.store(n.d + gates + 2 * H, choose(real, d_c * i * slope(saved_g, g, ACT), 0), inside)  # ∂c'/∂g = i
    tl.store(n.d + gates + 3 * H, choose(real, d_h * squashed * slope(saved_o, o, GATE), 0), inside)  # ∂h'/∂o = act(c')
    tl.store(n.d_c + member, choose(real, d_c * f, d_c_after), inside)  # ∂c'/∂c = f
    tl.debug_barrier()  # zeros wait for nothing: not even for the threads that still have to read what was there
    tl.store(n.d_h + member, choose(real, 0, d_h), inside)


@triton.jit
def weight_tiles(weight, k, columns, H: tl.constexpr, G: tl.constexpr, FORWARD: tl.constexpr, DEPTH: tl.constexpr):
    """DEPTH rows from the k-th on of what a step multiplies by: of W_hhᵀ gate by gate; on the way back of W_hh."""
    depth = k + tl.arange(0, DEPTH)[:, None]
    tiles = ()
    if FORWARD:
        for gate in tl.static_range(G):
            at = (gate * H + columns) * H + depth
            tiles = tiles + (tl.load(weight + at, mask=(depth < H) & (columns < H), other=0),)
    else:
        tiles = (tl.load(weight + depth * H + columns, mask=(depth < G * H) & (columns < H), other=0),)
    return tiles


@triton.jit
def add_products(
    sums, read, k, tiles, rows, B, K: tl.constexpr, DEPTH: tl.constexpr, N: tl.constexpr, PRECISION: tl.constexpr
):
    """The sums, one for each of N matrices, with what DEPTH columns of (B, K) from the k-th on add to them."""
    depth = k + tl.arange(0, DEPTH)[None, :]
    left = tl.load(read + rows * K + depth, mask=(rows < B) & (depth < K), other=0, cache_modifier=".cg")
    larger = ()
    for j in tl.static_range(N):
        larger = larger + (tl.dot(left, tiles[j], sums[j], input_precision=PRECISION, out_dtype=sums[j].dtype),)
    return larger


@triton.jit
def meet(counter, arrivals):
    """Waits for so many arrivals, and sees all that was written before them."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < arrivals:
        pass
    tl.debug_barrier()


@triton.jit(do_not_specialize=["first", "last", "T"])
def walk(
    STEP: tl.constexpr, FORWARD: tl.constexpr, GATE: tl.constexpr, ACT: tl.constexpr,
    n, real, read, weight, bias, counter, first, last, T, B, H: tl.constexpr, G: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, HELD: tl.constexpr,
    TOGETHER: tl.constexpr,
):  # fmt: skip
    """The steps `first` to `last`, counted from where the walk begins, of ROWS of the batch and COLUMNS of every gate.

    `read` is the one tensor of `n` that is multiplied. HELD: the weight's tiles are read once, and stay. TOGETHER: the
    programs that share rows wait for each other after every step.
    """
    N: tl.constexpr = G if FORWARD else 1
    K: tl.constexpr = H if FORWARD else G * H
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (rows < B) & (columns < H)
    held = ()
    if HELD:
        for k in tl.static_range(0, K, DEPTH):
            held = held + (weight_tiles(weight, k, columns, H, G, FORWARD, DEPTH),)
    for s in tl.range(first, last, num_stages=1):  # no step may be begun before the one before it
        t = tl.cast(s if FORWARD else T - 1 - s, tl.int64)
        row = t * B + rows
        from_before = read + (t if FORWARD else t + 1) * B * K
        sums = ()
        for gate in tl.static_range(N):
            start = tl.full((ROWS, COLUMNS), 0, SUM)
            if FORWARD:
                start += tl.load(bias + gate * H + columns, mask=columns < H, other=0).to(SUM)
            sums = sums + (start,)
        if HELD:
            for k in tl.static_range(0, K, DEPTH):
                sums = add_products(sums, from_before, k, held[k // DEPTH], rows, B, K, DEPTH, N, PRECISION)
        else:
            for k in tl.range(0, K, DEPTH):
                tiles = weight_tiles(weight, k, columns, H, G, FORWARD, DEPTH)
                sums = add_products(sums, from_before, k, tiles, rows, B, K, DEPTH, N, PRECISION)
        real_t = None if real is None else tl.load(real + row, mask=rows < B, other=0)
        before = row * H + columns
        at = (rows * H + columns, before, before + B * H, row * (G * H) + columns, inside)
        STEP(sums, real_t, at, n, H, GATE, ACT)
        if TOGETHER:
            meet(counter + tl.program_id(0), (s - first + 1) * tl.num_programs(1))
        else:
            tl.debug_barrier()


STEPS: dict[type[Cell], tuple[Any, Any]] = {
    RNNCell: (rnn_step, rnn_step_back),
    GRUCell: (gru_step, gru_step_back),
    LSTMCell: (lstm_step, lstm_step_back),
}
INTERPRETED = not isinstance(walk, triton.JITFunction)
CAN_BE_HELD = 128 * 1024  # bytes of weights that a program can hold, with registers for all else that it computes
SHARED = 227 * 1024  # bytes of shared memory that a program can have on an H100; others have 99 or 163 KB


class Plan(NamedTuple):
    """How the work is shared: of how many rows of the batch and columns of every gate a program is made; how many terms
    of a sum it reads at a time; whether it holds its weights or reads them at every step; how programs meet between
    steps, "alone", at a "counter" or by "launch"; how many warps it has."""

    rows: int
    columns: int
    depth: int
    held: bool
    meet: str
    warps: int


def plan(B: int, H: int, G: int, size: int, at_once: int, shared: int = SHARED) -> Plan:
    """For numbers of so many bytes, on a device that runs so many programs at once, as those at a counter must, each
    with so many bytes of shared memory: there the weights lie that it holds, beside a tile of what they multiply.

    A program has all columns where it can hold their weights; else as few as can be, so that many work on a step.
    """
    whole, tile = G * H * power_of_two(H) * size, 16 * power_of_two(H) * size
    if H * size <= 256 and whole + tile <= shared:
        return Plan(16, power_of_two(H), power_of_two(H), True, "alone", 8)
    rows = power_of_two(min(B, 64))
    columns = next((n for n in (16, 32, 64) if blocks(B, rows) * blocks(H, n) <= at_once), 0)
    if columns and G * H * columns * size <= min(CAN_BE_HELD, shared - rows * 256):
        return Plan(rows, columns, 256 // size, True, "counter", 4)
    return Plan(rows, columns or 32, 128 // size, False, "counter" if columns else "launch", 8 if columns == 64 else 4)


def blocks(n: int, of: int) -> int:
    return -(-n // of)


def power_of_two(n: int) -> int:
    """The next one, but 16 at least, as products of tiles need it."""
    return max(16, 1 << (n - 1).bit_length())


def take_steps(
    step: Any, gate: str, act: str, n: Forward | Back, real: Tensor | None,
    read: Tensor, weight: Tensor, bias: Tensor | None = None,
) -> None:  # fmt: skip
    """Every step of a layer, from `read` (T + 1, B, ·) on, which is one of the tensors of `n` that they fill."""
    T, B, H, G = len(n.saved), read.shape[1], weight.shape[1], len(weight) // weight.shape[1]
    p = plan(B, H, G, weight.element_size(), *limits(weight.device))
    together, grid = p.meet == "counter", (blocks(B, p.rows), blocks(H, p.columns))
    counter = torch.zeros(grid[0], dtype=torch.int32, device=weight.device)
    sums = tl.float64 if weight.dtype == torch.float64 else tl.float32
    launches = [(t, t + 1) for t in range(T)] if p.meet == "launch" else [(0, T)]
    with torch.cuda.device_of(weight):
        for first, last in launches:
            walk[grid](
                step, isinstance(n, Forward), gate, act, n, real, read, weight, bias, counter,
                first, last, T, B, H, G, sums, input_precision(), p.rows, p.columns, p.depth, p.held, together,
                num_warps=p.warps, num_stages=3, enable_fp_fusion=True, launch_cooperative_grid=together,
            )  # fmt: skip


def limits(device: torch.device) -> tuple[int, ...]:
    """How many programs run at once at least, one on each multiprocessor; on a GPU also the bytes of shared memory that
    each can have."""
    if device.type != "cuda":
        return (0,)
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, getattr(properties, "shared_memory_per_block_optin", SHARED)


def input_precision() -> str:
    """How `tl.dot` multiplies float32: as torch's products of matrices on GPUs do.

    `torch.get_float32_matmul_precision` raises once a program has used `fp32_precision`, its successor; reading that
    one is right after both.
    """
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def sum_dtype(of: Tensor) -> torch.dtype:
    return torch.promote_types(of.dtype, torch.float32)


def with_room(first: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """(T + 1, B, H), of which the first is known."""
    whole = first.new_empty(steps + 1, *first.shape, dtype=dtype)
    whole[0] = first
    return whole


class TritonRecurrence(Recurrence):
    """The recurrence of any cell; what it is given lies contiguous."""

    @staticmethod
    def forward(
        ctx: Any, kind: type[Cell], gate: str, act: str, real: Tensor | None,
        x_parts: Tensor, weight: Tensor, bias: Tensor, *state: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        dtypes = x_parts.dtype, sum_dtype(x_parts)
        wholes = [with_room(part, len(x_parts), dtype) for part, dtype in zip(state, dtypes, strict=False)]
        outputs = wholes[0][1:]
        h_n = torch.empty_like(outputs) if kind is GRUCell else None
        saved = outputs if kind is RNNCell and not act.startswith("hard") else torch.empty_like(x_parts)
        step, ctx.step_back = STEPS[kind]
        take_steps(step, gate, act, Forward(x_parts, saved, h_n, *wholes), real, wholes[0], weight, bias)
        ctx.functions, ctx.real = (gate, act), real
        ctx.save_for_backward(weight, saved, h_n, *wholes)
        return outputs, *(whole[-1].to(part.dtype, copy=True) for whole, part in zip(wholes, state, strict=True))

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, *d_final: Tensor) -> tuple[Tensor | None, ...]:
        only_once()
        (gate, act), (weight, saved, h_n, *wholes) = ctx.functions, ctx.saved_tensors
        d = saved.new_empty(len(saved) + 1, *saved.shape[1:])
        d[-1] = 0
        d_x = d[:-1] if h_n is None else torch.empty_like(saved)
        d_state = [part.to(sum_dtype(weight), copy=True).contiguous() for part in d_final]
        n = Back(d_output.contiguous(), d, d_x, saved, h_n, *chain(*zip(wholes, d_state, strict=True)))
        take_steps(ctx.step_back, gate, act, n, ctx.real, d, weight)
        d_state[0] += d[0] @ weight
        d_weight = d[:-1].flatten(0, 1).T @ wholes[0][:-1].flatten(0, 1)
        return None, None, None, None, d_x, d_weight, d[:-1].sum((0, 1)), *d_state


def available(of: Tensor) -> bool:
    """Whether the kernels run where a tensor is."""
    return of.is_cuda or INTERPRETED


def unroll(cell: Cell, x_parts: Tensor, state: Any, real: Tensor | None = None) -> tuple[Tensor, Any]:
    """As `models.recurrent.unroll`, with every h in one tensor (T, B, H). Under autocast, its precision is that of
    products and outputs. Raises ValueError for tensors that are not on a GPU."""
    device = x_parts.device.type
    if not available(x_parts):
        raise ValueError(f"the triton backend needs a GPU, and x is on the {device}: use backend='fused'")
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_parts.dtype
    products = (x_parts.to(dtype).contiguous(), cell.weight_hh.to(dtype).contiguous())
    fixed = type(cell), NAMES[cell.gate_activation], NAMES[cell.activation], None if real is None else real.contiguous()
    return TritonRecurrence.run(state, *fixed, *products, cell.bias_hh, *state)
