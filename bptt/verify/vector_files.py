"""Test vectors for any language: cases with their exact results and every intermediate of every step, in plain files.

`bptt/verify/vectors/README.md` describes the files to their readers, and holds a committed set.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bptt.cells import CELLS
from bptt.layers import Recurrent
from bptt.verify.cases import (
    Arrays,
    Case,
    Sizes,
    by_hand,
    exact_points,
    layers_forward,
    parts_of,
    piecewise_linear,
    state_of,
)
from bptt.verify.oracles import central_differences
from bptt.verify.sequences import sequence_bounds
from bptt.verify.smooth_cases import random_layers

MANIFEST = "SHA256SUMS"


def cases() -> Iterator[tuple[Case, Arrays]]:
    """The committed set, each case with the bound on |result − truth| of a correct float64 implementation."""
    for cell in CELLS:
        exact = [
            piecewise_linear(cell, Sizes(T=5, B=2, I=3, H=4), 1, density=0.5),
            piecewise_linear(cell, Sizes(T=4, B=2, I=3, H=5, L=2), 0),
            piecewise_linear(cell, Sizes(T=12, B=1, I=2, H=3), 0),
            exact_points(cell, Sizes(T=5, B=2, I=3, H=4), 0),
        ]
        yield from ((case, {name: np.zeros_like(truth) for name, truth in case.truth.items()}) for case in exact)
        smooth = random_layers(cell, Sizes(T=5, B=2, I=3, H=4))
        truth = {
            name: np.asarray(value) for name, value in (by_hand(smooth, np.copy) | central_differences(smooth)).items()
        }
        bound = {name: of for name, of in sequence_bounds(smooth).items() if name in truth}
        yield Case(**{**vars(smooth), "truth": truth}), bound


def intermediates(case: Case) -> Arrays:
    """What is computed on the way, by layer, with a leading axis T: gates, states, and the gradients of both."""
    network, p = case.network, case.parameters
    assert isinstance(network, Recurrent)
    _, _, traces = layers_forward(network, case.inputs | case.parameters)
    d_final = state_of(network, case.cotangents, "d.final.")
    d = network.backward(p, case.cotangents["d.output"], d_final, traces)
    found: Arrays = {}
    for layer, (trace, gradients) in enumerate(zip(traces, d.layers, strict=True)):
        for position, name in enumerate(CELLS[network.cell].saved):
            if name != "prev":
                found[f"layer.{layer}.{name}"] = np.stack([step[position] for step in trace.saved])
        found |= parts_of(gradients.states, f"d.layer.{layer}.")
        found[f"d.layer.{layer}.x_part"] = gradients.x_part
        found[f"d.layer.{layer}.h_part"] = gradients.h_part
    return found


def groups(case: Case, bound: Arrays) -> dict[str, Arrays]:
    return {
        "input": case.inputs,
        "parameter": case.parameters,
        "cotangent": case.cotangents,
        "result": case.truth,
        "bound": bound,
        "intermediate": intermediates(case),
    }


def header(case: Case) -> dict[str, Any]:
    assert isinstance(case.network, Recurrent)
    return {
        "cell": case.network.cell,
        "gates": list(CELLS[case.network.cell].gates),
        "activation": case.network.activation,
        "gate_activation": case.network.gate_activation,
        "sizes": {name: value for name, value in vars(case.sizes).items() if name not in ("V", "D")},
    }


def write(folder: Path) -> list[Path]:
    """Every case as JSON, as flat text and as .npz, and their SHA-256. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for case, bound in cases():
        arrays = groups(case, bound)
        files += [folder / f"{case.name}.{suffix}" for suffix in ("json", "txt", "npz")]
        as_json = header(case) | {
            group: {name: {"shape": a.shape, "data": hexadecimal(a)} for name, a in members.items()}
            for group, members in arrays.items()
        }
        files[-3].write_text(json.dumps(as_json, indent=1) + "\n", encoding="utf-8")
        files[-2].write_text(text(header(case)["sizes"], arrays), encoding="utf-8")
        flat = {f"{group}:{name}": a for group, members in arrays.items() for name, a in members.items()}
        np.savez_compressed(files[-1], **flat)  # type: ignore[arg-type]  # its stubs take the names for options
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (folder / MANIFEST).write_text(sums, encoding="utf-8")
    return files


def read(folder: Path) -> list[tuple[Case, Arrays]]:
    """The cases of a folder that `write` has written, each with its bound.

    Raises ValueError where a file is not the one that was written, and FileNotFoundError where one is missing.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file; give a folder that check.py vectors has written")
    for line in manifest.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{folder / name} is not what {MANIFEST} says it is: write or fetch the vectors again")
    return [read_case(path) for path in sorted(folder.glob("*.json"))]


def read_case(path: Path) -> tuple[Case, Arrays]:
    told = json.loads(path.read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz")) as file:
        group = {
            kind: {name.split(":")[1]: file[name] for name in file.files if name.startswith(f"{kind}:")}
            for kind in ("input", "parameter", "cotangent", "result", "bound")
        }
    network = Recurrent(told["cell"], told["sizes"]["L"], told["activation"], told["gate_activation"])
    given = group["input"], group["parameter"], group["cotangent"], group["result"]
    return Case(path.stem, network, Sizes(**told["sizes"]), *given), group["bound"]


def text(sizes: dict[str, int], groups: dict[str, Arrays]) -> str:
    """The form for readers without JSON: a line for each size, then two for each array."""
    lines = [f"{name} {size}" for name, size in sizes.items()]
    for group, members in groups.items():
        for name, a in members.items():
            lines += [f"{group}:{name} {a.ndim} {' '.join(map(str, a.shape))}", " ".join(hexadecimal(a))]
    return "\n".join(lines) + "\n"


def parse_text(content: str) -> tuple[dict[str, int], Arrays]:
    """The sizes and the arrays of such a file, by `group:name`. Raises ValueError where it is none."""
    sizes: dict[str, int] = {}
    arrays: Arrays = {}
    lines = iter(content.splitlines())
    for line in lines:
        name, *numbers = line.split()
        if len(numbers) == 1 and ":" not in name:
            sizes[name] = int(numbers[0])
            continue
        shape = tuple(map(int, numbers[1:]))
        if len(shape) != int(numbers[0]):
            raise ValueError(f"{name} says {numbers[0]} axes and gives {len(shape)}")
        values = [float.fromhex(number) for number in next(lines, "").split()]
        if len(values) != int(np.prod(shape)):
            raise ValueError(f"{name} says shape {shape} and gives {len(values)} numbers")
        arrays[name] = np.array(values).reshape(shape)
    return sizes, arrays


def hexadecimal(array: np.ndarray[Any, Any]) -> list[str]:
    """Row by row, in C's notation: nothing is lost, and no reader has to round."""
    return [float(number).hex() for number in array.ravel()]
