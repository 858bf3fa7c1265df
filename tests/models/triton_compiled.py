"""Compiles every kernel for an H100, which need not be there: what Triton's interpreter takes, its compiler may not."""

from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models import triton_kernels as kernels
from models.cells import CELLS

NUMBERS, SUMS = "*bf16", "*fp32"
COUNTS = dict.fromkeys(["first", "last", "T", "B"], "i32")


def compiled(name: str, forward: bool, meet: str) -> bytes:
    """The machine code of one cell's steps, on numbers of bfloat16 and uneven sequences."""
    kind = CELLS[name]
    c, h_n = SUMS if name == "lstm" else None, NUMBERS if name == "gru" else None
    ahead = kernels.Forward(NUMBERS, NUMBERS, h_n, NUMBERS, c)
    back = kernels.Back(NUMBERS, NUMBERS, NUMBERS, NUMBERS, h_n, NUMBERS, SUMS, c, c)
    given: dict[str, Any] = {"n": ahead if forward else back, "real": "*i1", "read": NUMBERS, "weight": NUMBERS}
    given |= {"bias": NUMBERS if forward else None, "counter": "*i32"} | COUNTS
    fixed = {"STEP": kernels.STEPS[kind][not forward], "FORWARD": forward, "GATE": "sigmoid", "ACT": "tanh", "H": 20}
    fixed |= {"G": len(kind.gates), "SUM": tl.float32, "PRECISION": "ieee", "ROWS": 16, "COLUMNS": 32, "DEPTH": 16}
    fixed |= {"HELD": meet == "alone", "TOGETHER": meet == "counter"}
    names = kernels.walk.arg_names
    constants: dict[tuple[int, ...], Any] = {(names.index(key),): value for key, value in fixed.items()}
    constants |= {(names.index(key),): None for key, value in given.items() if value is None}
    constants |= {(names.index("n"), place): None for place, value in enumerate(given["n"]) if value is None}
    given["n"] = type(given["n"])(*(value or "constexpr" for value in given["n"]))
    source = ASTSource(kernels.walk, {key: given.get(key) or "constexpr" for key in names}, constants)
    options = {"num_warps": 4, "enable_fp_fusion": True, "launch_cooperative_grid": meet == "counter"}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


if __name__ == "__main__":
    for name in CELLS:
        for forward, meet in ((True, "alone"), (True, "counter"), (False, "alone"), (False, "launch")):
            print(name, "forward" if forward else "back", meet, len(compiled(name, forward, meet)), "bytes")
