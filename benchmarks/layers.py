"""One recurrent layer, forward and back, against `nn.LSTM`, `nn.GRU` and `nn.RNN` with the same weights, in float32."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pairs import compare
from models.cells import CELLS
from models.projections import Symbols
from models.recurrent import TORCH_LAYERS, Recurrent

V = 96  # symbols, as many as a text in characters has
SIZES = {"lstm": [(64, 32, 128), (64, 64, 256), (64, 64, 512)], "gru": [(64, 64, 256)], "rnn": [(64, 64, 256)]}


def rows(pairs: int) -> Iterator[dict[str, Any]]:
    """On tokens, through an embedding as wide as the layer; and on dense input that wants a gradient, too."""
    flops = flops_per_second()
    for cell, sizes in SIZES.items():
        for T, B, H in sizes:
            torch.compiler.reset()
            theirs = TORCH_LAYERS[cell](H, H)
            ours, embedding = Recurrent.from_torch(theirs), nn.Embedding(V, H)
            parameters = [*theirs.parameters(), *ours.parameters(), *embedding.parameters()]
            tokens = torch.randint(0, V, (T, B))
            x, d = torch.randn(T, B, H, requires_grad=True), torch.randn(T, B, H)
            (first,) = ours.layers()[0]

            def looked_up(first: Any = first, ours: Any = ours, tokens: Any = tokens, e: Any = embedding) -> Tensor:
                table = first.project(e.weight)
                return ours.over_projected(lambda _: [Symbols(tokens, table)], tokens.shape[1])[0]

            gates = len(CELLS[cell].gates)
            recurrent = 6 * T * B * gates * H * H  # forward, and twice that back
            for what, our_run, their_run, input_flops in (
                ("tokens", looked_up, lambda t=theirs, k=tokens, e=embedding: t(e(k))[0], 6 * V * gates * H * H),
                ("dense", lambda o=ours, x=x: o(x)[0], lambda t=theirs, x=x: t(x)[0], recurrent),
            ):
                leaves = [*parameters, x]
                found = compare(forward_and_back(our_run, d, leaves), forward_and_back(their_run, d, leaves), pairs)
                floor = (recurrent + input_flops) / flops
                yield {"cell": cell, "input": what, "T": T, "B": B, "H": H, "floor": floor, **asdict(found)}


def forward_and_back(run: Callable[[], Tensor], d: Tensor, leaves: list[Tensor]) -> Callable[[], None]:
    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        run().backward(d)

    return both


def flops_per_second(size: int = 2048) -> float:
    """What one large product of matrices reaches here: no layer does better."""
    a, b = torch.randn(2, size, size)
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)
