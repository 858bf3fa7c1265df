"""Test vectors for any language: cases with their exact results and every intermediate of every step, in plain files.

`bptt/verify/vectors/README.md` describes the files to their readers, and holds a committed set.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bptt.arithmetic import ACTIVATIONS
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
SUFFIXES = (".json", ".txt", ".npz")  # of the files of a case
LARGEST_FILE = 1 << 26  # bytes


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

    Raises ValueError where a file is not the one that was written, is not listed, or holds no case; and
    FileNotFoundError where one is missing.
    """
    listed = digests(folder / MANIFEST)
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        if path.name not in listed:
            raise ValueError(f"{path} is not listed in {MANIFEST}: write or fetch the vectors again")
    for name, digest in listed.items():
        if digest_of(folder / name) != digest:
            raise ValueError(f"{folder / name} is not what {MANIFEST} says it is: write or fetch the vectors again")
    return [read_case(folder / name) for name in sorted(listed) if name.endswith(".json")]


def digests(manifest: Path) -> dict[str, str]:
    """The SHA-256 of each file that the manifest lists, by name. Raises ValueError for one that lists nothing."""
    if not manifest.is_file():
        raise FileNotFoundError(f"{manifest}: no such file; give a folder that check.py vectors has written")
    found: dict[str, str] = {}
    for number, line in enumerate(regular_bytes(manifest).decode("utf-8", "replace").splitlines(), 1):
        if not (match := re.fullmatch(r"([0-9a-f]{64}) [ *]([^/\\\0]+)", line)):
            raise ValueError(f"{manifest}, line {number}: {line[:80]!r} is not a SHA-256 and the name of a file")
        found[match[2]] = match[1]
    if not found:
        raise ValueError(f"{manifest} is empty: write or fetch the vectors again")
    return found


def digest_of(path: Path) -> str:
    return hashlib.sha256(regular_bytes(path)).hexdigest()


def regular_bytes(path: Path) -> bytes:
    """What is in a file. Raises OSError or ValueError for what is none, such as a pipe, and for what is too large."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file, but {MANIFEST} lists it: write or fetch the vectors again")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size} bytes: test vectors have at most {LARGEST_FILE}")
    return path.read_bytes()


def read_case(path: Path) -> tuple[Case, Arrays]:
    """Raises ValueError where the two files hold no case, such as arrays of shapes that do not fit together."""
    try:
        case, bound = parsed_case(path)
    except (ValueError, KeyError, TypeError, IndexError, AssertionError, RecursionError, zipfile.BadZipFile) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} and its .npz hold no case: {reason}") from None
    return case, bound


def parsed_case(path: Path) -> tuple[Case, Arrays]:
    told = json.loads(regular_bytes(path))
    archive = io.BytesIO(regular_bytes(path.with_suffix(".npz")))
    with zipfile.ZipFile(archive) as members:
        if sum(member.file_size for member in members.infolist()) > LARGEST_FILE:
            raise ValueError("the .npz is too large when unpacked")
    with np.load(archive, allow_pickle=False) as file:
        group = {
            kind: {name.split(":")[1]: file[name] for name in file.files if name.startswith(f"{kind}:")}
            for kind in ("input", "parameter", "cotangent", "result", "bound")
        }
    sizes = Sizes(**{name: int(value) for name, value in told["sizes"].items()})
    for name in ("activation", "gate_activation"):
        if told[name] not in ACTIVATIONS:
            raise ValueError(f"{name} is {told[name]!r}: it can be {', '.join(ACTIVATIONS)}")
    network = Recurrent(told["cell"], sizes.L, told["activation"], told["gate_activation"])
    case = Case(path.stem, network, sizes, group["input"], group["parameter"], group["cotangent"], group["result"])
    fits_together(case, group["bound"])
    return case, group["bound"]


def fits_together(case: Case, bound: Arrays) -> None:
    """Raises ValueError unless each array has the shape that the case's sizes ask for, and every result a bound."""
    assert isinstance(case.network, Recurrent)
    s, cell = case.sizes, CELLS[case.network.cell]
    if min(vars(s).values()) < 1:
        raise ValueError(f"a size is less than 1: {s}")
    rows, states = len(cell.gates) * s.H, (s.L, s.B, s.H)
    inputs: dict[str, tuple[int, ...]] = {"x": (s.T, s.B, s.I)}
    inputs |= {f"initial.{part}": states for part in cell.state._fields}
    parameters: dict[str, tuple[int, ...]] = {}
    for layer in range(s.L):
        columns = {"weight_ih": (s.inputs_of(layer),), "weight_hh": (s.H,), "bias_ih": (), "bias_hh": ()}
        parameters |= {f"cells.{layer}.{name}": (rows, *shape) for name, shape in columns.items()}
    given: dict[str, tuple[int, ...]] = {"d.output": (s.T, s.B, s.H)}
    given |= {f"d.final.{part}": states for part in cell.state._fields}
    results = {name.removeprefix("d."): shape for name, shape in given.items()}
    results |= {f"d.{name}": shape for name, shape in (inputs | parameters).items()}
    for group, found, due in (
        ("input", case.inputs, inputs), ("parameter", case.parameters, parameters),
        ("cotangent", case.cotangents, given), ("result", case.truth, results), ("bound", bound, results),
    ):  # fmt: skip
        for name, shape in due.items():
            if name not in found:
                raise ValueError(f"there is no {group}:{name}")
            if found[name].shape != shape or found[name].dtype != np.float64:
                raise ValueError(f"{group}:{name} is {found[name].dtype} {found[name].shape}, not float64 {shape}")
            if not np.isfinite(found[name]).all() or (group == "bound" and (found[name] < 0).any()):
                raise ValueError(f"{group}:{name} has an entry that is negative or not finite")
        if found.keys() - due.keys():
            raise ValueError(f"there is an unknown {group}:{min(found.keys() - due.keys())}")


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
