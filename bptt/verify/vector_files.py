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
from bptt.verify.cases import Arrays, Case, Sizes, by_hand, exact_points, parts_of, piecewise_linear, state_of
from bptt.verify.numbers import largest_terms, terms
from bptt.verify.oracles import central_differences
from bptt.verify.smooth_cases import random_layers

MANIFEST = "SHA256SUMS"
ULPS = 8  # of the largest term: how far a float64 result may be from the truth where it must round


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
        bound = {name: ULPS * np.spacing(largest_terms(value)) for name, value in by_hand(smooth, terms).items()}
        yield Case(**{**vars(smooth), "truth": truth}), bound


def intermediates(case: Case) -> Arrays:
    """What is computed on the way, by layer, with a leading axis T: gates, states, and the gradients of both."""
    network, p = case.network, case.parameters
    assert isinstance(network, Recurrent)
    _, _, traces = network.forward(p, case.inputs["x"], state_of(network, case.inputs, "initial."))
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
        "sizes": {name: value for name, value in vars(case.sizes).items() if name != "V"},
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
        lines = [f"{k} {v}" for k, v in header(case)["sizes"].items()]
        for group, members in arrays.items():
            for name, a in members.items():
                lines += [f"{group}:{name} {a.ndim} {' '.join(map(str, a.shape))}", " ".join(hexadecimal(a))]
        files[-2].write_text("\n".join(lines) + "\n", encoding="utf-8")
        flat = {f"{group}:{name}": a for group, members in arrays.items() for name, a in members.items()}
        np.savez_compressed(files[-1], **flat)  # type: ignore[arg-type]  # its stubs take the names for options
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (folder / MANIFEST).write_text(sums, encoding="utf-8")
    return files


def hexadecimal(array: np.ndarray[Any, Any]) -> list[str]:
    """Row by row, in C's notation: nothing is lost, and no reader has to round."""
    return [float(number).hex() for number in array.ravel()]
