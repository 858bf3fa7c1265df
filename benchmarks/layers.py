"""Recurrent layers, forward and back, against `nn.LSTM`, `nn.GRU` and `nn.RNN` with the same weights, in float32.

torch.compile is no third side: it does not trace torch's recurrent layers, and calls them as they are. With
`torch._dynamo.config.allow_rnn`, an experiment of its own, it writes out every step: 64 of an LSTM took it two minutes
to compile, and ran no faster.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pairs import compare, fastest, now, timed
from models.cells import CELLS
from models.projections import Symbols
from models.recurrent import TORCH_LAYERS, Recurrent

PAIRS = 15
V = 96  # symbols, as many as a text in characters has
SIZES = {  # T, B, H
    "cpu": {"lstm": [(64, 32, 128), (64, 64, 256), (64, 64, 512)], "gru": [(64, 64, 256)], "rnn": [(64, 64, 256)]},
    "cuda": {
        "lstm": [(128, 64, 256), (128, 128, 512), (256, 128, 1024), (128, 512, 2048)],
        "gru": [(128, 64, 256), (128, 128, 512)],
        "rnn": [(128, 64, 256)],
    },
}
GOALS = {  # of ratios: on a CPU, and where a number of units is given, on tokens
    ("lstm", 128): 1.2, ("lstm", 256): 1.6, ("lstm", 512): 2.0, "lstm": 1.0, "gru": 2.5, "rnn": 2.5,
}  # fmt: skip


class Pair:
    """The same L layers as ours and as torch's, the input for them, and d (T, B, H), which stands for ∂L/∂h.

    Each of `sides` are two functions that compute h: on tokens, through an embedding as wide as the layer, and on dense
    input that wants a gradient, too.
    """

    def __init__(self, cell: str, T: int, B: int, H: int, L: int = 1, device: str = "cpu") -> None:
        self.theirs = TORCH_LAYERS[cell](H, H, L, device=device)
        self.ours, self.embedding = Recurrent.from_torch(self.theirs), nn.Embedding(V, H, device=device)
        self.tokens = torch.randint(V, (T, B), device=device)
        self.x, self.d = torch.randn(2, T, B, H, device=device).unbind()
        self.x.requires_grad_()
        self.leaves = [self.x, *(p for part in (self.theirs, self.ours, self.embedding) for p in part.parameters())]
        self.sides = {
            "tokens": (self.looked_up, lambda: self.theirs(self.embedding(self.tokens))[0]),
            "dense": (lambda: self.ours(self.x)[0], lambda: self.theirs(self.x)[0]),
        }

    def looked_up(self) -> Tensor:
        (first,) = self.ours.layers()[0]
        table = first.project(self.embedding.weight)
        return self.ours.over_projected(lambda _: [Symbols(self.tokens, table)], self.tokens.shape[1])[0]

    def runs(self, given: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """Of ours and theirs, forward and back."""
        ours, theirs = self.sides[given]
        return partial(self.forward_and_back, ours), partial(self.forward_and_back, theirs)

    def forward_and_back(self, side: Callable[[], Tensor]) -> None:
        self.forget()
        side().backward(self.d)

    def forget(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None


def rows(pairs: int, device: str) -> Iterator[dict[str, Any]]:
    """On a GPU each side also as a CUDA graph, of which nothing is launched step by step."""
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]  # as that of matrix products is
    for cell, sizes in SIZES[device].items():
        for T, B, H in sizes:
            pair = Pair(cell, T, B, H, device=device)
            rate = flops_per_second(B, H, len(CELLS[cell].gates), device)
            for given in pair.sides:
                ours, theirs = pair.runs(given)
                goals = [goal for key, goal in GOALS.items() if key in (cell, (cell, H)) and device == "cpu"]
                what = {"cell": cell, "T": T, "B": B, "H": H, "against": f"nn.{cell.upper()}", "unit": "ms"}
                floor = 1e3 * flops(cell, given, T, B, H) / rate
                about = {"goal": goals[0 if given == "tokens" else -1] if goals else None, "floor": floor}
                yield {"input": given, **what, **asdict(compare(ours, theirs, pairs).scaled(1e3)), **about}
                if device == "cuda":
                    graphs = compare(graph(ours), graph(theirs), pairs).scaled(1e3)
                    yield {"input": f"{given}, CUDA graph", **what, **asdict(graphs), **about}


def flops(cell: str, given: str, T: int, B: int, H: int) -> int:
    """Of the products of matrices: forward, and twice that back. Of symbols, the input's are computed once each."""
    read = V if given == "tokens" else T * B
    return 6 * (T * B + read) * len(CELLS[cell].gates) * H * H


def flops_per_second(B: int, H: int, gates: int, device: str, large: int = 2048) -> float:
    """What products of matrices reach here, be they large, or as those of a step: no layer does better."""
    shapes = [(large, large, large), (B, H, gates * H)]
    return max(2 * n * k * m / seconds_of_a_product(n, k, m, device) for n, k, m in shapes)


def seconds_of_a_product(n: int, k: int, m: int, device: str) -> float:
    a, b = torch.randn(n, k, device=device), torch.randn(k, m, device=device)
    out = torch.empty(n, m, device=device)
    count = 1 + 10**9 // (n * k * m)  # a product of a step alone would be too short for the clock

    def products() -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)

    threads = fastest(products)
    return min(timed(products, threads) for _ in range(5)) / count


def graph(run: Callable[[], None]) -> Callable[[], None]:
    """The same as one CUDA graph, after a few runs beside it that choose and compile kernels."""
    beside = torch.cuda.Stream()
    with torch.cuda.stream(beside):
        for _ in range(3):
            run()
    now()
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        run()
    return recorded.replay
