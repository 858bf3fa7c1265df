"""Calls an implementation that nobody here has seen: a torch module or function, a NumPy function, or any program.

It does so in a process of its own, `python -m bptt.verify.candidates`, so that what crashes, hangs or prints does it
there. `trials.py` sends the request and the cases to its standard input, and reads the answers from its standard output
(`messages.py`). This is the one module of `bptt` that knows torch, inside the functions that call a torch candidate.
"""

import ctypes
import importlib
import importlib.util
import inspect
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.verify.cases import Arrays
from bptt.verify.layouts import Layout, declared
from bptt.verify.messages import KEY_BYTES, Sender, received
from bptt.verify.vector_files import parse_text, text

EXPECTED = {
    "torch module": "a class that is called as nn.LSTM is, or a function that makes a module: name(input_size, "
    "hidden_size[, num_layers]), then module(x, state) -> (output, state)",
    "torch function": "name(x, state, parameters) -> (output, state), of tensors, parameters in a dictionary",
    "numpy function": "name(case) -> results, of arrays in dictionaries, named as in the test vectors",
}


PR_SET_PDEATHSIG = 1
LARGEST_RESULT = 1 << 22  # numbers; results of the checker's cases have a few hundred
LARGEST_FILE = 1 << 26  # bytes
LONGEST_MESSAGE = 1000  # characters
MOST_NAMED = 20  # results that nobody asked for
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
            advice = "; give path/to/file.py:name" if error.name and place.startswith(error.name) else ""
            raise CannotRun(f"{place}: {error}{advice}") from None
    if not hasattr(module, name):
        public = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise CannotRun(f"{place} has no {name!r}; it has {', '.join(public) or 'nothing to call'}")
    return getattr(module, name)


def kind_of(candidate: Any) -> str:
    """What sort of candidate this is, by how many arguments it must be given. Raises CannotRun for anything else."""
    if hasattr(candidate, "named_parameters") and not inspect.isclass(candidate):
        raise CannotRun(made_already(candidate))
    if callable(candidate) and (signature := signature_of(candidate)):
        maker = candidate.func if isinstance(candidate, partial) else candidate
        if inspect.isclass(maker) and (accepts(candidate, 2) or accepts(candidate, 3)):
            return "torch module"
        needed = required(signature)
        if needed == 3 and takes_sizes(signature):
            return "torch module"
        for kind, arguments in (("numpy function", 1), ("torch module", 2), ("torch function", 3)):
            if needed == arguments and not inspect.isclass(maker):
                return kind
    raise CannotRun("called otherwise than expected; give " + "; or ".join(f"a {k}: {v}" for k, v in EXPECTED.items()))


MADE = {  # modules that cannot be made anew from their class, by that of torch
    "OptimizedModule": "a compiled module that is made already, of one size: give a function (input_size, hidden_size) "
    "that makes a module and compiles it",
    "ScriptModule": "a ScriptModule that is made already, of one size: give a function (input_size, hidden_size) that "
    "makes a module and scripts it",
}


def made_already(module: Any) -> str:
    """Why an instance of a module cannot be judged: each case has sizes of its own."""
    kinds = [MADE[base.__name__] for base in type(module).__mro__ if base.__name__ in MADE]
    return (
        f"it is {kinds[0] if kinds else 'a module that is made already: give its class, or a function that makes it'}"
    )


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Its arguments, also of a function that torch.jit.script has compiled; None where nobody can tell."""
    schema = getattr(function, "schema", None)
    if schema is not None and hasattr(schema, "arguments"):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        given = [argument for argument in schema.arguments if argument.name != "self"]
        return inspect.Signature([inspect.Parameter(argument.name, kind) for argument in given])
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def required(signature: inspect.Signature) -> int:
    parameters = signature.parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def takes_sizes(signature: inspect.Signature) -> bool:
    """Whether three arguments are (input_size, hidden_size, num_layers), not (x, state, parameters)."""
    first, _, last = list(signature.parameters.values())[:3]
    return "size" in first.name or "layer" in last.name or first.annotation in (int, "int")


def accepts(function: Callable[..., Any], arguments: int) -> bool:
    signature = signature_of(function)
    try:
        return signature is not None and bool(signature.bind(*range(arguments)))
    except TypeError:
        return False


def named_for(layout: Layout, layers: int, p: Arrays, pattern: str) -> Arrays:
    """The parameters of all layers in the candidate's layout, each named by its `pattern` of name and layer."""
    found: Arrays = {}
    for layer in range(layers):
        ours = {name.split(".")[-1]: value for name, value in p.items() if name.startswith(f"cells.{layer}.")}
        found |= {pattern.format(name=name, layer=layer): value for name, value in layout.theirs(ours).items()}
    return found


def back_from(layout: Layout, layers: int, gradients: Arrays, given: Arrays, pattern: str) -> Arrays:
    """The gradients of parameters so named, in our layout and under our names. Raises WrongAnswer for a wrong shape."""
    found: Arrays = {}
    for layer in range(layers):
        names = {name: pattern.format(name=name, layer=layer) for name in set(layout.names.values())}
        own = {name: gradients[full] for name, full in names.items() if full in gradients}
        for name, value in own.items():
            due = given[names[name]].shape
            if value.shape != due:
                raise WrongAnswer(f"d.{names[name]} has shape {value.shape}, where {due} is due")
        found |= {f"d.cells.{layer}.{name}": value for name, value in layout.ours(own).items()}
    return found


def torch_results(candidate: Any, kind: str, case: Arrays, request: dict[str, Any]) -> dict[str, Arrays]:
    """Forward and backward, in three ways."""
    layers, layout = request["layers"], declared(request["cell"], **request["layout"])
    p = {name: tensor(value, request) for name, value in named_for(layout, layers, case, TORCH_NAMES).items()}
    given = {name: as_array(value, value) for name, value in p.items()}
    if kind == "torch module":
        call, p = torch_module(candidate, case, layers, p)
    else:
        p = {name: value.requires_grad_() for name, value in p.items()}

        def call(x: Any, state: Any) -> Any:
            return candidate(x, state, p)

    def results(leaves: dict[str, Any], values: list[Any], times: int = 1) -> Arrays:
        gradients = {name: as_array(value.grad, value) / times for name, value in p.items()}
        found = {f"d.{name}": as_array(leaf.grad, leaf) / times for name, leaf in leaves.items()}
        names = ["output", *(name.replace("initial", "final") for name in leaves if name != "x")]
        for name, value in zip(names, values, strict=True):
            found[name] = as_array(value, value).reshape(case[f"d.{name}"].shape)
        return found | back_from(layout, layers, gradients, given, TORCH_NAMES)

    with compiled_for_every_shape():
        return three_ways(call, p, case, request, results)


def three_ways(
    call: Any, p: dict[str, Any], case: Arrays, request: dict[str, Any], results: Callable[..., Arrays]
) -> dict[str, Arrays]:
    """Way "first": after another input was seen. "back twice": through the same graph once more, which adds the same
    to every gradient. "again": with another input between forward and backward, with gaps in the memory of the
    gradients that arrive, without those that are zero, and with a single number for those that are the same everywhere.
    """
    other = case | {"x": -case["x"]}
    torch_forward(call, p, other, request)
    leaves, values = torch_forward(call, p, case, request)
    torch_backward(values, case, request, keep=True)
    found = {"first": results(leaves, values)}
    torch_backward(values, case, request)
    found["back twice"] = results(leaves, values, times=2)
    for value in p.values():
        value.grad = None
    leaves, values = torch_forward(call, p, case, request)
    torch_forward(call, p, other, request)
    torch_backward(values, case, request, sparse=True)
    found["again"] = results(leaves, values)
    return found


@contextmanager
def compiled_for_every_shape() -> Iterator[None]:
    """For what torch.compile has made: without these options it would go back to eager code after eight shapes, and
    refuse a second backward pass through the same graph."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    import torch

    with torch._dynamo.config.patch(recompile_limit=256), torch._functorch.config.patch(donated_buffer=False):
        yield


def tensor(array: Any, request: dict[str, Any]) -> Any:
    import torch

    return torch.tensor(array, dtype=getattr(torch, request["dtype"]), device=request["device"])


def torch_module(candidate: Any, case: Arrays, layers: int, p: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The module with these parameters in it, and which of its own they became."""
    import torch

    sizes = case["x"].shape[-1], case["initial.h"].shape[-1], layers
    module = candidate(*sizes[: 2 if layers == 1 and accepts(candidate, 2) else 3])
    if not isinstance(module, torch.nn.Module) or not accepts(module.forward, 2):
        name = getattr(candidate, "__name__", "it")
        raise CannotRun(f"{name} is not {EXPECTED['torch module']}")
    module = module.to(next(iter(p.values())))
    return module, placed(module, p)


def torch_forward(
    call: Any, p: dict[str, Any], case: Arrays, request: dict[str, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """The leaves that gradients are wanted of, and the output and the parts of the final state."""
    import torch

    names = ["x", *(f"initial.{part}" for part in CELLS[request["cell"]].state._fields)]
    leaves = {name: tensor(case[name], request).requires_grad_() for name in names}
    given = [*leaves.values(), *p.values()]
    before = [each.detach().clone() for each in given]
    x, *state = leaves.values()
    values = judged(call(x, tuple(state) if len(state) > 1 else state[0]), case, x.dtype)
    if any(not torch.equal(a, b) for a, b in zip(before, given, strict=True)):
        raise WrongAnswer("it changes its inputs in place")
    return leaves, values


def torch_backward(
    values: list[Any], case: Arrays, request: dict[str, Any], keep: bool = False, sparse: bool = False
) -> None:
    """Sends the case's gradients back; `sparse` in the ways that are thrifty, or strange, in memory."""
    import torch

    names = ["d.output", *(f"d.final.{part}" for part in CELLS[request["cell"]].state._fields)]
    roots, arriving = [], []
    for value, name in zip(values, names, strict=True):
        d = tensor(case[name], request)
        if sparse and (d == d.flatten()[0]).all():
            d = d.flatten()[0].expand(value.shape)
        elif sparse:
            d = torch.stack([d, d * torch.nan], dim=-1)[..., 0].reshape_as(d)
        if value.requires_grad and not (sparse and not d.any()):
            roots.append(value)
            arriving.append(d if d.shape == value.shape else d[0])  # of a state without the axis of layers
    if not roots:
        raise WrongAnswer("no gradient can flow: what it returns is detached from what it was given")
    before = [d.clone() for d in arriving]
    torch.autograd.backward(roots, arriving, retain_graph=keep)
    if any(not torch.equal(a, b) for a, b in zip(before, arriving, strict=True)):
        raise WrongAnswer("it changes the gradient that arrives in place")


def judged(answer: Any, case: Arrays, dtype: Any) -> list[Any]:
    """The output and the parts of the final state. Raises WrongAnswer where they are not of the kind that is due."""
    import torch

    if not isinstance(answer, tuple | list) or len(answer) != 2:
        length = f" of {len(answer)}" if isinstance(answer, tuple | list) else ""
        raise WrongAnswer(f"it returns a {type(answer).__name__}{length}, where (output, state) is due")
    final = list(answer[1]) if isinstance(answer[1], tuple | list) else [answer[1]]
    parts = [name for name in case if name.startswith("d.final.")]
    if len(final) != len(parts):
        raise WrongAnswer(f"the state it returns has {len(final)} parts, where {len(parts)} are due")
    for name, value in zip(["output", *parts], [answer[0], *final], strict=True):
        due = case["d.output" if name == "output" else name].shape
        what = name.removeprefix("d.")
        if not isinstance(value, torch.Tensor):
            raise WrongAnswer(f"{what} is a {type(value).__name__}, where a tensor is due")
        if tuple(value.shape) != due and not (name != "output" and due[0] == 1 and tuple(value.shape) == due[1:]):
            axes = "(T, B, H)" if name == "output" else "(L, B, H)"
            raise WrongAnswer(f"{what} has shape {tuple(value.shape)}, where {axes} = {due} is due")
        if value.dtype != dtype:
            raise WrongAnswer(f"{what} is {value.dtype}, where {dtype} is due".replace("torch.", ""))
    return [answer[0], *final]


def as_array(tensor: Any, like: Any) -> np.ndarray[Any, Any]:
    """In NumPy; zeros where there is none, as for a leaf that no gradient reaches."""
    return np.asarray((like * 0 if tensor is None else tensor).detach().cpu().double().numpy())


def placed(module: Any, p: dict[str, Any]) -> dict[str, Any]:
    """The module's own parameters, with the values given, under the names given."""
    import torch

    own = {name.replace("_orig_mod.", ""): value for name, value in module.named_parameters()}  # torch.compile's prefix
    found: dict[str, Any] = {}
    for name, value in p.items():
        short, layer = name.rsplit("_l", 1)
        told = short.replace("{layer}", layer)
        spelling = next((each for each in (name, f"cells.{layer}.{short}", told) if each in own), None)
        if spelling is None:
            has = f"but {', '.join(own)}: say which with --names" if own else "and none is left for it"
            raise CannotRun(f"there is no parameter {told!r} for layer {layer}, {has}")
        if own[spelling].shape != value.shape:
            raise CannotRun(
                f"{spelling} has shape {tuple(own[spelling].shape)}, in this layout it would be {tuple(value.shape)}: "
                "declare another with --cell, --layout, --transposed or --one_bias"
            )
        found[name] = own.pop(spelling)
        with torch.no_grad():
            found[name].copy_(value)
    if own:
        raise CannotRun(f"its {', '.join(own)} is no parameter of this cell in this layout: see --names and --one_bias")
    return found


def dictionary_results(call: Callable[[Arrays], Any], case: Arrays, request: dict[str, Any]) -> dict[str, Arrays]:
    """Of a NumPy function or a program: from arrays by name to arrays by name.

    In two ways: "first", after another input was seen; "again", with gaps in the memory of the gradients that arrive.
    """
    layers, layout = request["layers"], declared(request["cell"], **request["layout"])
    others = {name: value for name, value in case.items() if not name.startswith("cells.")}
    given = others | named_for(layout, layers, case, OUR_NAMES)
    given = {name: np.ascontiguousarray(value, request["dtype"]) for name, value in given.items()}
    dictionary_run(call, given | {"x": -given["x"]}, layout, layers)
    found = {"first": dictionary_run(call, given, layout, layers)}
    with_gaps = {name: np.repeat(v, 2, -1)[..., ::2] if name.startswith("d.") else v for name, v in given.items()}
    return found | {"again": dictionary_run(call, with_gaps, layout, layers)}


def dictionary_run(call: Callable[[Arrays], Any], given: Arrays, layout: Layout, layers: int) -> Arrays:
    """One answer, in our layout. What nobody asked for is kept without its value, to be named."""
    before = {name: value.copy() for name, value in given.items()}
    answer = call(given)
    if not isinstance(answer, dict) or not all(isinstance(name, str) for name in answer):
        raise WrongAnswer(f"it returns a {type(answer).__name__}, where a dictionary of results by name is due")
    if given.keys() != before.keys() or any(not np.array_equal(before[name], given[name]) for name in before):
        raise WrongAnswer("it changes its inputs in place")
    asked = {"output", *(f"d.{name}" for name in given), *(name[2:] for name in given if name.startswith("d.final"))}
    known = {
        name: as_floats(name, value)
        for name, value in answer.items()
        if name in asked or name.startswith(("d.layer.", "layer."))
    }
    gradients = {name[2:]: value for name, value in known.items() if name.startswith("d.cells.")}
    results = {name: value for name, value in known.items() if not name.startswith("d.cells.")}
    others = sorted(answer.keys() - known.keys())[:MOST_NAMED]
    unknown = {f"unknown:{shortened(name)}": np.zeros(0) for name in others}
    return unknown | results | back_from(layout, layers, gradients, given, OUR_NAMES)


def as_floats(name: str, value: Any) -> Array:
    """A result as an array. Raises WrongAnswer for what is none."""
    refused = WrongAnswer(f"{name} is {described(value)}, where an array of real numbers is due")
    try:
        array = np.asarray(value)
    except Exception:  # such as rows of several lengths
        raise refused from None
    if array.size > LARGEST_RESULT:
        raise WrongAnswer(f"{name} has shape {array.shape}, which is more than any result has")
    if array.dtype.kind in "USmMc" or any(number is None for number in (array.flat if array.dtype == object else ())):
        raise refused  # text, times, complex numbers, and None, which NumPy would take for NaN
    try:
        return np.asarray(array, np.float64)
    except Exception:  # objects
        raise refused from None


def described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}"
    return f"a {type(value).__name__}"


def program_results(command: str, folder: Path, case: Arrays, request: dict[str, Any]) -> dict[str, Arrays]:
    """Of any program, which reads one text file and writes another."""
    source, target = folder / "case.txt", folder / "out.txt"
    try:
        words = [w.replace("{case}", str(source)).replace("{out}", str(target)) for w in shlex.split(command)]
    except ValueError as error:
        raise CannotRun(f"{command!r} is no command: {error}") from None
    if not words:
        raise CannotRun("--exec is empty: give 'program {case} {out}'")

    def call(given: Arrays) -> Arrays:
        groups: dict[str, Arrays] = {"input": {}, "parameter": {}, "cotangent": {}}
        for name, value in given.items():
            groups["cotangent" if name[:2] == "d." else "parameter" if name[:5] == "cells" else "input"][name] = value
        (T, B, I), (L, _, H) = case["x"].shape, case["initial.h"].shape
        source.write_text(text({"T": T, "B": B, "I": I, "H": H, "L": L}, groups), encoding="utf-8")
        target.unlink(missing_ok=True)
        return program_run(words, target)

    return dictionary_results(call, case, request)


def program_run(words: list[str], target: Path) -> Arrays:
    with tempfile.TemporaryFile() as printed:
        code = exit_code(words, printed)
        last = last_line(printed)
    if code:
        raise CannotRun(f"{words[0]} ended with exit code {code}: {last or 'no message'}")
    if not target.is_file():
        raise CannotRun(f"{words[0]} wrote no file to {{out}}: give it {{case}} and {{out}} as arguments")
    if target.stat().st_size > LARGEST_FILE:
        raise CannotRun(f"{words[0]} wrote {target.stat().st_size} bytes, where {LARGEST_FILE} are more than enough")
    try:
        _, found = parse_text(target.read_text(encoding="utf-8"))
    except (ValueError, IndexError, OverflowError, OSError) as error:
        raise CannotRun(f"{words[0]} wrote a broken file: {error}") from None
    return {name.split(":")[-1]: value for name, value in found.items()}


def exit_code(words: list[str], printed: IO[bytes]) -> int:
    """Runs the program. Its output goes to a file: a process that it leaves behind could hold a pipe open."""
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=printed, check=False
        ).returncode
    except (OSError, ValueError) as error:  # ValueError: a zero byte among the words
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotRun(f"{words[0]}: {reason}; give a program that can be executed") from None


def last_line(printed: IO[bytes]) -> str:
    printed.seek(max(0, printed.seek(0, os.SEEK_END) - LONGEST_MESSAGE))
    return (printed.read().decode("utf-8", "replace").strip().splitlines() or [""])[-1]


def respond(request: dict[str, Any], cases: Iterable[Arrays], report: Callable[[dict[str, Arrays]], None]) -> Any:
    """Reports the candidate's results of every case, by way of running it. Returns what ended that before the last
    case, as `kind` and `message`, or None."""
    try:
        with redirect_stdout(sys.stderr):
            answers(request, cases, report)
    except (CannotRun, WrongAnswer) as error:
        return {"kind": type(error).__name__, "message": shortened(str(error))}
    except BaseException as error:  # whatever a candidate's code may raise
        return {"kind": "CannotRun", "message": shortened(said(error, request["target"]))}
    return None


def answers(request: dict[str, Any], cases: Iterable[Arrays], report: Callable[[dict[str, Arrays]], None]) -> None:
    candidate: Any = None if request["program"] else load(request["target"])
    kind = "program" if request["program"] else kind_of(candidate)
    if kind == "numpy function" and request["dtype"] not in ("float64", "float32"):
        raise CannotRun(f"NumPy has no {request['dtype']}: choose float64 or float32")
    if not kind.startswith("torch") and request["device"] != "cpu":
        raise CannotRun(f"--device {request['device']} is for torch: a {kind} runs where it runs")
    for case in cases:
        if kind == "program":
            report(program_results(request["target"], Path(request["folder"]), case, request))
        elif kind == "numpy function":
            report(dictionary_results(candidate, case, request))
        else:
            report(torch_results(candidate, kind, case, request))


def said(error: BaseException, target: str) -> str:
    """One line: what was raised, and the last line of the candidate's own file on the way there."""
    if isinstance(error, SystemExit):
        return (
            f"it ends the process with exit code {error.code if isinstance(error.code, int) else int(bool(error.code))}"
        )
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(f.filename).name}, line {f.lineno}" for f in frames if f.filename == target.rpartition(":")[0]]
    place = f" ({own[-1]})" if own and not isinstance(error, SyntaxError) else ""
    try:
        message = shortened((str(error).splitlines() or [""])[0])
    except Exception:  # an error that cannot be printed
        message = ""
    return f"it raises {type(error).__name__}: {message}{place}"


def shortened(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE + 100 else message[:LONGEST_MESSAGE] + " …"


def private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """The standard input and output of this process, which from then on are empty, for a candidate that uses them."""
    streams = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return streams


def end_with_parent() -> None:
    """Asks Linux to kill this process when its supervisor is killed."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    end_with_parent()
    source, target = private_streams()
    key = source.read(KEY_BYTES)
    first, *others = received(source.read, key)
    source.close()

    def write(content: bytes) -> None:
        target.write(content)
        target.flush()

    sender = Sender(write, key)

    def report(found: dict[str, Arrays]) -> None:
        runs = {f"{way}>{name}": value for way, of in found.items() for name, value in of.items()}
        sender.send({"ways": list(found)}, runs)

    problem = respond(first.content, [message.arrays for message in others], report)
    sender.send({"end": problem})
    os._exit(0)  # whatever threads and exit handlers the candidate has left


if __name__ == "__main__":
    main()
