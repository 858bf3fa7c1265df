"""Calls an implementation that nobody here has seen: a torch module or function, a NumPy function, or any program.

It does so in a process of its own, `python -m bptt.verify.candidates FOLDER`, so that what crashes, hangs or prints
does it there. `trials.py` writes the folder and reads what comes of it. This is the one place in the room that knows
torch, inside the functions that call a torch candidate.
"""

import importlib
import importlib.util
import inspect
import json
import os
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from bptt.cells import CELLS
from bptt.verify.cases import Arrays
from bptt.verify.layouts import Layout, declared
from bptt.verify.vector_files import parse_text, text

EXPECTED = {
    "torch module": "a class that is called as nn.LSTM is: name(input_size, hidden_size[, num_layers]), then "
    "module(x, state) -> (output, state)",
    "torch function": "name(x, state, parameters) -> (output, state), of tensors, parameters in a dictionary",
    "numpy function": "name(case) -> results, of arrays in dictionaries, named as in the test vectors",
}


TORCH_NAMES, OUR_NAMES = "{name}_l{layer}", "cells.{layer}.{name}"


class CannotRun(Exception):
    """There is nothing to judge: the message says why."""


class WrongAnswer(Exception):
    """What came back is wrong before any number is looked at."""


def load(target: str) -> Any:
    """`path/to/file.py:name`, or `package.module:name`. Raises CannotRun where there is none."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise CannotRun(f"{target!r}: give path/to/file.py:name")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise CannotRun(f"{place}: no such file")
        sys.path.insert(0, str(Path(place).resolve().parent))
        spec = importlib.util.spec_from_file_location("candidate", place)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["candidate"] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise CannotRun(f"{place}: {error}; give path/to/file.py:name") from None
    if not hasattr(module, name):
        public = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise CannotRun(f"{place} has no {name!r}; it has {', '.join(public) or 'nothing to call'}")
    return getattr(module, name)


def kind_of(candidate: Any) -> str:
    """What sort of candidate this is, by what it can be called with. Raises CannotRun for anything else."""
    for kind, arguments in (("torch module", 2), ("torch function", 3), ("numpy function", 1)):
        if callable(candidate) and inspect.isclass(candidate) == (kind == "torch module"):
            if accepts(candidate, arguments):
                return kind
    raise CannotRun("called otherwise than expected; give " + "; or ".join(f"a {k}: {v}" for k, v in EXPECTED.items()))


def accepts(function: Callable[..., Any], arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # built in, without a signature
        return True
    return True


def named_for(layout: Layout, layers: int, p: Arrays, pattern: str) -> Arrays:
    """The parameters of all layers in the candidate's layout, each named by its `pattern` of name and layer."""
    found: Arrays = {}
    for layer in range(layers):
        ours = {name.split(".")[-1]: value for name, value in p.items() if name.startswith(f"cells.{layer}.")}
        found |= {pattern.format(name=name, layer=layer): value for name, value in layout.theirs(ours).items()}
    return found


def back_from(layout: Layout, layers: int, gradients: Arrays, pattern: str) -> Arrays:
    """The gradients of parameters so named, in our layout and under our names."""
    found: Arrays = {}
    for layer in range(layers):
        own = {name: gradients.get(pattern.format(name=name, layer=layer)) for name in set(layout.names.values())}
        ours = layout.ours({name: value for name, value in own.items() if value is not None})
        found |= {f"d.cells.{layer}.{name}": value for name, value in ours.items()}
    return found


def torch_results(candidate: Any, kind: str, case: Arrays, request: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Forward and back, twice: the second time, gradients arrive in memory with gaps."""
    layers, layout = request["layers"], declared(request["cell"], **request["layout"])
    p = {name: tensor(value, request) for name, value in named_for(layout, layers, case, TORCH_NAMES).items()}
    if kind == "torch module":
        sizes = (case["x"].shape[-1], case["initial.h"].shape[-1], layers)
        call, p = torch_module(candidate, sizes[: 2 if layers == 1 else 3], p)
    else:
        p = {name: value.requires_grad_() for name, value in p.items()}

        def call(x: Any, state: Any) -> Any:
            return candidate(x, state, p)

    runs = []
    for gaps in (False, True):
        found = torch_run(call, p, case, request, gaps)
        gradients = {name: as_array(value.grad, value) for name, value in p.items()}
        runs.append(found | back_from(layout, layers, gradients, TORCH_NAMES))
    return runs[0], runs[1]


def tensor(array: Any, request: dict[str, Any]) -> Any:
    import torch

    return torch.tensor(array, dtype=getattr(torch, request["dtype"]), device=request["device"])


def torch_module(candidate: Any, sizes: tuple[int, ...], p: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The module with these parameters in it, and which of its own they became."""
    import torch

    module = candidate(*sizes)
    if not isinstance(module, torch.nn.Module) or not accepts(module.forward, 2):
        raise CannotRun(f"{candidate.__name__} is not {EXPECTED['torch module']}")
    first = next(iter(p.values()))
    module = module.to(first)
    return module, placed(module, p)


def torch_run(call: Any, p: dict[str, Any], case: Arrays, request: dict[str, Any], gaps: bool) -> Arrays:
    """One pass forward and back: everything but the parameters' gradients, which it leaves where autograd puts them."""
    import torch

    parts = CELLS[request["cell"]].state._fields
    leaves = {"x": tensor(case["x"], request).requires_grad_()}
    leaves |= {part: tensor(case[f"initial.{part}"], request).requires_grad_() for part in parts}
    d_output, *d_final = (tensor(case[f"d.{of}"], request) for of in ("output", *(f"final.{part}" for part in parts)))
    if gaps:
        d_output = torch.stack([d_output, d_output * torch.nan], dim=-1)[..., 0]
    given = [*leaves.values(), *p.values(), *d_final]
    before = [each.detach().clone() for each in given]
    for value in p.values():
        value.grad = None
    x, *initial = leaves.values()
    output, *final = judged_shapes(call(x, tuple(initial) if len(parts) > 1 else initial[0]), d_output, d_final)
    d_final = [d.reshape(value.shape) for d, value in zip(d_final, final, strict=True)]
    roots = [(v, d) for v, d in zip([output, *final], [d_output, *d_final], strict=True) if v.requires_grad]
    if not roots:
        raise WrongAnswer("no gradient can flow: what it returns is detached from what it was given")
    torch.autograd.backward([value for value, _ in roots], [d for _, d in roots])
    if any(not torch.equal(a, b) for a, b in zip(before, given, strict=True)):
        raise WrongAnswer("it changes its inputs in place")
    shape = case["initial.h"].shape
    found = {f"final.{of}": as_array(v, v).reshape(shape) for of, v in zip(parts, final, strict=True)}
    found |= {f"d.initial.{part}": as_array(leaf.grad, leaf) for part, leaf in zip(parts, initial, strict=True)}
    return {"output": as_array(output, output), "d.x": as_array(x.grad, x)} | found


def judged_shapes(answer: Any, d_output: Any, d_final: list[Any]) -> list[Any]:
    """The output and the parts of the final state. Raises WrongAnswer where they are not of the shapes that are due."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise WrongAnswer(f"it returns {type(answer).__name__}, where (output, state) is due")
    output, final = answer[0], list(answer[1]) if isinstance(answer[1], tuple | list) else [answer[1]]
    if output.shape != d_output.shape:
        raise WrongAnswer(f"output has shape {tuple(output.shape)}, where (T, B, H) = {tuple(d_output.shape)} is due")
    allowed = [(due.shape, due.shape[1:]) if len(due) == 1 else (due.shape,) for due in d_final]
    if len(final) != len(allowed) or any(of.shape not in due for of, due in zip(final, allowed, strict=True)):
        shapes = ", ".join(str(tuple(each.shape)) for each in final)
        due = f"{len(d_final)} of (L, B, H) = {tuple(d_final[0].shape)}"
        raise WrongAnswer(f"the state has shape {shapes}, where {due} is due")
    return [output, *final]


def as_array(tensor: Any, like: Any) -> np.ndarray[Any, Any]:
    """In NumPy; zeros where there is none, as for a leaf that no gradient reaches."""
    return np.asarray((like * 0 if tensor is None else tensor).detach().cpu().double().numpy())


def placed(module: Any, p: dict[str, Any]) -> dict[str, Any]:
    """The module's own parameters, with the values given, under the names given."""
    import torch

    own = dict(module.named_parameters())
    found: dict[str, Any] = {}
    for name, value in p.items():
        short, layer = name.rsplit("_l", 1)
        spellings = [name, f"cells.{layer}.{short}", short]
        spelling = next((each for each in spellings if each in own), None)
        if spelling is None:
            raise CannotRun(
                f"there is no parameter {name!r} or {short!r}, but {', '.join(own)}: say which with --names"
            )
        if own[spelling].shape != value.shape:
            raise CannotRun(
                f"{spelling} has shape {tuple(own[spelling].shape)}, in this layout it would be {tuple(value.shape)}: "
                "declare another with --layout, --transposed or --one_bias"
            )
        found[name] = own.pop(spelling)
        with torch.no_grad():
            found[name].copy_(value)
    if own:
        raise CannotRun(
            f"nothing is known of its parameter {', '.join(own)}: say with --names or --one_bias what it is"
        )
    return found


def dictionary_results(
    call: Callable[[Arrays], Arrays], case: Arrays, request: dict[str, Any]
) -> tuple[Arrays, Arrays]:
    """Of a NumPy function or a program: from arrays by name to arrays by name, twice."""
    layers, layout = request["layers"], declared(request["cell"], **request["layout"])
    others = {name: value for name, value in case.items() if not name.startswith("cells.")}
    given = others | named_for(layout, layers, case, OUR_NAMES)
    given = {name: np.ascontiguousarray(value, request["dtype"]) for name, value in given.items()}
    runs: list[Arrays] = []
    for gaps in (False, True):
        handed = {name: np.repeat(v, 2, -1)[..., ::2] if gaps and name[0] == "d" else v for name, v in given.items()}
        before = {name: value.copy() for name, value in handed.items()}
        answer = call(handed)
        if not isinstance(answer, dict):
            raise WrongAnswer(f"it returns {type(answer).__name__}, where a dictionary of results is due")
        if any(not np.array_equal(before[name], handed[name]) for name in before):
            raise WrongAnswer("it changes its inputs in place")
        answer = {name: np.asarray(value, np.float64) for name, value in answer.items()}
        gradients = {name[2:]: value for name, value in answer.items() if name.startswith("d.cells.")}
        results = {name: value for name, value in answer.items() if not name.startswith("d.cells.")}
        runs.append(results | back_from(layout, layers, gradients, OUR_NAMES))
    return runs[0], runs[1]


def program_results(command: str, folder: Path, case: Arrays, request: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Of any program, which reads one text file and writes another."""

    def call(given: Arrays) -> Arrays:
        groups: dict[str, Arrays] = {"input": {}, "parameter": {}, "cotangent": {}}
        for name, value in given.items():
            groups["cotangent" if name[:2] == "d." else "parameter" if name[:5] == "cells" else "input"][name] = value
        (T, B, I), (L, _, H) = case["x"].shape, case["initial.h"].shape
        source, target = folder / "case.txt", folder / "out.txt"
        source.write_text(text({"T": T, "B": B, "I": I, "H": H, "L": L}, groups), encoding="utf-8")
        target.unlink(missing_ok=True)
        words = [word.format(case=source, out=target) for word in shlex.split(command)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CannotRun(f"{words[0]}: {error.strerror}; give a program that can be executed") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise CannotRun(f"{words[0]} ended with exit code {done.returncode}: {last}")
        if not target.is_file():
            raise CannotRun(f"{words[0]} wrote no file to {{out}}: give it {{case}} and {{out}} as arguments")
        try:
            _, found = parse_text(target.read_text(encoding="utf-8"))
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise CannotRun(f"{words[0]} wrote a broken file: {error}") from None
        return {name.split(":")[-1]: value for name, value in found.items()}

    return dictionary_results(call, case, request)


def answers(folder: Path, request: dict[str, Any]) -> None:
    """Every case of the folder, each leaving N.out.npz; or one file that says why not."""
    candidate: Any = None if request["program"] else load(request["target"])
    kind = "program" if request["program"] else kind_of(candidate)
    if kind == "numpy function" and request["dtype"] not in ("float64", "float32"):
        raise CannotRun(f"NumPy has no {request['dtype']}: choose float64 or float32")
    for number in range(request["cases"]):
        with np.load(folder / f"{number}.npz") as file:
            case = dict(file)
        if kind == "program":
            first, again = program_results(request["target"], folder, case, request)
        elif kind == "numpy function":
            first, again = dictionary_results(candidate, case, request)
        else:
            first, again = torch_results(candidate, kind, case, request)
        runs = {
            f"{run}:{name}": value for run, of in (("first", first), ("again", again)) for name, value in of.items()
        }
        np.savez(folder / "unfinished.npz", **runs)  # type: ignore[arg-type]
        os.replace(folder / "unfinished.npz", folder / f"{number}.out.npz")


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        with redirect_stdout(sys.stderr):
            answers(folder, request)
    except (CannotRun, WrongAnswer) as error:
        problem = {"kind": type(error).__name__, "message": str(error)}
    except BaseException as error:  # whatever a stranger's code may raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}, line {where.lineno}"
        problem = {"kind": "CannotRun", "message": f"it raises {type(error).__name__}: {error} ({place})"}
    else:
        return
    (folder / "problem.json").write_text(json.dumps(problem), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
