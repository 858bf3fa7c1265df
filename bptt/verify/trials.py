"""Puts a candidate to the question: the cases, a process of its own with a time limit, and what came back."""

import io
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.layers import Recurrent
from bptt.verify.bounds import FORMATS, Bounded
from bptt.verify.candidates import respond
from bptt.verify.cases import Arrays, Case, Sizes, by_hand, exact_points
from bptt.verify.layouts import declared
from bptt.verify.messages import KEY_BYTES, Message, Sender, Unreadable
from bptt.verify.processes import Supervised
from bptt.verify.sequences import sequence_bounds
from bptt.verify.smooth_cases import random_layers
from bptt.verify.vector_files import intermediates, read

SHORT, SHORT_DEEP = Sizes(T=3, B=2, I=3, H=3), Sizes(T=2, B=2, I=2, H=2, L=2)
IN_EIGHT_BITS = {  # cases, and seeds, that hardly a published bug leaves as they are: a test counts them
    ("rnn", 1): (SHORT, 353), ("gru", 1): (SHORT, 43), ("lstm", 1): (SHORT, 171),
    ("rnn", 2): (SHORT_DEEP, 8), ("gru", 2): (SHORT_DEEP, 77), ("lstm", 2): (SHORT_DEEP, 15),
}  # fmt: skip
GRID = 16  # inputs are multiples of 1/16, below 16, which every format holds: 8 bits


@dataclass(frozen=True)
class Request:
    """What to run, and how it wants to be called. `layout` holds the arguments of `layouts.declared`."""

    target: str
    cell: str
    program: bool = False
    layers: int = 1
    dtype: str = "float64"
    device: str = "cpu"
    layout: dict[str, Any] = field(default_factory=dict)


class Question(NamedTuple):
    """A case, what is true of it, and how far a right answer may be from that."""

    name: str
    case: Case
    truth: Arrays
    bound: Arrays


class Answers(NamedTuple):
    """The results of each case, in each way of running it; and the problem that ended it, if there was one."""

    runs: list[dict[str, Arrays]]  # "first", and others that are to give the same
    problem: str = ""
    is_wrong: bool = False  # or else it could not be run


def stranger(dtype: str) -> type[Bounded]:
    """How a stranger may round: at most twice where we do once, for an expression may be written otherwise (n + z (h −
    n) for (1 − z) n + z h, y − y² for y (1 − y)); and functions may be accurate to their largest value alone, as where
    σ is made of tanh and tanh of σ.
    """
    known = FORMATS[dtype]
    return type("Stranger", (known,), {"__slots__": (), "unit": 2 * known.unit, "function_floor": 1.0})


def questions(request: Request, quick: bool = False, seed: int = 0) -> list[Question]:
    """Cases that differ in what they could bring to light.

    In bfloat16, bounds mean little where errors of a percent have grown for long; so cases are short there, and one is
    exact within its 8 bits, whatever the order of sums: there, not a bit may differ.
    """
    narrow, L = request.dtype == "bfloat16", request.layers
    scale = 0.375 if narrow else 1.0

    def drawn(T: int, B: int, I: int, H: int) -> Case:
        return on_grid(random_layers(request.cell, Sizes(T, B, I, H, L), seed), scale)

    usual = drawn(3 if narrow else 5, 2, 3, 4)
    cases = {"usual": usual, "one of everything": drawn(1, 1, 1, 1), "sum of outputs": summed(usual)}
    if not narrow:
        cases["saturated"] = exact_points(request.cell, usual.sizes, seed)
    elif (request.cell, L) in IN_EIGHT_BITS:
        sizes, found = IN_EIGHT_BITS[request.cell, L]
        cases["exact"] = exact_points(request.cell, sizes, found, bits=8)
    if not quick:
        for kept in usual.cotangents:
            alone = {name: value * (name == kept) for name, value in usual.cotangents.items()}
            cases[f"{kept.removeprefix('d.')} alone"] = Case(**{**vars(usual), "cotangents": alone})
        cases |= {"wide": drawn(2, 7, 11, 9)} | ({} if narrow else {"long": drawn(40, 1, 2, 3)})
    return [question(name, case, request) for name, case in cases.items()]


def summed(case: Case) -> Case:
    """From a state of zeros, as most sequences start; the loss is 1024 Σ output, whose gradients nobody may clip."""
    zeros = {name: value * (name == "x") for name, value in case.inputs.items()}
    d = {name: np.full_like(value, 1024.0 * (name == "d.output")) for name, value in case.cotangents.items()}
    return Case(**{**vars(case), "inputs": zeros, "cotangents": d})


def on_grid(case: Case, scale: float) -> Case:
    groups = {group: getattr(case, group) for group in ("inputs", "parameters", "cotangents")}
    rounded = {group: {k: np.round(v * scale * GRID) / GRID for k, v in of.items()} for group, of in groups.items()}
    return Case(**{**vars(case), **rounded})


def from_vectors(request: Request, folder: Path) -> list[Question]:
    """The smooth cases of this cell and depth among the test vectors of a folder. Raises ValueError if it has none."""
    if request.dtype != "float64":
        raise ValueError(f"the test vectors are float64, not {request.dtype}: leave --dtype or --vectors out")
    fitting = Recurrent(request.cell, request.layers)
    found = [Question(case.name, case, case.truth, bound) for case, bound in read(folder) if case.network == fitting]
    if not found:
        raise ValueError(f"{folder} has no smooth case of {request.cell} with {request.layers} layers")
    return found


def question(name: str, case: Case, request: Request) -> Question:
    """The truth is our float64 result, so what that may be off counts too."""
    if declared(request.cell, **request.layout).biases == "one":
        silent = {k: v * (not k.endswith("bias_hh")) for k, v in case.parameters.items()}
        case = Case(**{**vars(case), "parameters": silent})
    kind = stranger(request.dtype)
    slack = 1 + Bounded.unit / kind.unit
    bound = {name: of * slack for name, of in sequence_bounds(case, kind).items()}
    if name == "exact":
        bound = {name: np.zeros_like(of) for name, of in bound.items()}
    truth = by_hand(case, np.copy) | {k: v for k, v in intermediates(case).items() if k in bound}
    return Question(name, case, truth, bound)


def ask(request: Request, about: list[Question], time_limit: float) -> Answers:
    """Runs the candidate on every case in a process of its own, and ends all processes that it has started."""
    with tempfile.TemporaryDirectory(prefix="candidate-", ignore_cleanup_errors=True) as folder:
        key = secrets.token_bytes(KEY_BYTES)
        content = io.BytesIO()
        sender = Sender(content.write, key)
        content.write(key)
        sender.send({**asdict(request), "folder": folder})
        for each in about:
            sender.send({}, given(each))
        command = [sys.executable, "-m", "bptt.verify.candidates"]
        process = Supervised(command, content.getvalue(), key, time_limit)
        try:
            return collected(process.events(), about)
        finally:
            process.end()


def ask_here(request: Request, about: list[Question]) -> Answers:
    """The same in this process, for a candidate that is trusted."""
    runs: list[dict[str, Arrays]] = []
    return answers_of(runs, respond({**asdict(request), "folder": ""}, map(given, about), runs.append), about)


def given(each: Question) -> Arrays:
    return each.case.inputs | each.case.parameters | each.case.cotangents


def collected(events: Iterator[Message | Unreadable | str], about: list[Question]) -> Answers:
    """The answers among what happens to a candidate's process."""
    runs: list[dict[str, Arrays]] = []
    for event in events:
        if isinstance(event, str):
            return answers_of(runs, cannot_run(event), about)
        try:
            if isinstance(event, Unreadable):
                raise event
            if "end" in event.content:
                return answers_of(runs, problem_of(event, complete=len(runs) == len(about)), about)
            if len(runs) == len(about):
                raise Unreadable("there are more of them than cases")
            runs.append(ways_of(event))
        except Unreadable as error:
            return answers_of(runs, cannot_run(f"its answers cannot be read: {error}"), about)
    return answers_of(runs, cannot_run("it does not end, and cannot be stopped"), about)


def ways_of(message: Message) -> dict[str, Arrays]:
    """The results by way of running the candidate. Raises Unreadable where that is not what a message holds."""
    ways = message.content.get("ways")
    if not isinstance(ways, list) or "first" not in ways or not all(isinstance(way, str) for way in ways):
        raise Unreadable("a message has no results")
    found: dict[str, Arrays] = {way: {} for way in ways}
    for full_name, array in message.arrays.items():
        way, _, name = full_name.partition(">")
        if way not in found or array.dtype != np.float64:
            raise Unreadable(f"a message has {full_name!r}, of {array.dtype}")
        found[way][name] = array
    return found


def problem_of(message: Message, complete: bool) -> dict[str, str] | None:
    problem = message.content["end"]
    if problem is None:
        return None if complete else cannot_run("it ends the process before it has answered")
    if not isinstance(problem, dict) or not all(isinstance(problem.get(key), str) for key in ("kind", "message")):
        raise Unreadable("a message has no problem")
    return problem


def cannot_run(message: str) -> dict[str, str]:
    return {"kind": "CannotRun", "message": message}


def answers_of(runs: list[dict[str, Arrays]], problem: dict[str, str] | None, about: list[Question]) -> Answers:
    if problem is None:
        return Answers(runs)
    on = f"case {about[len(runs)].name!r}: " if 0 < len(runs) < len(about) else ""
    return Answers(runs, on + problem["message"], problem["kind"] == "WrongAnswer")


def gate_blocks(cell: str, array: Array) -> dict[str, Array]:
    """The rows of each gate, of weights or biases or their gradients."""
    return dict(zip(CELLS[cell].gates, np.split(array, len(CELLS[cell].gates)), strict=True))
