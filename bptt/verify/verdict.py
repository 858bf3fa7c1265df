"""Judges a candidate's answers: which result is wrong, from where on, by how much, and what known bug it looks like."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import Array, sigmoid
from bptt.verify.cases import Arrays, Case, by_hand
from bptt.verify.layouts import declared
from bptt.verify.mutants import MUTANTS, Mutant, applied
from bptt.verify.trials import Answers, Question, Request, gate_blocks

FIRST = "first"
WAYS = {
    "back twice": "when the backward pass runs a second time and is to add the same again",
    "again": "when it has seen other inputs, or gradients arrive with gaps in memory, as one number, or not at all",
}
SURE = 0.99  # a residual this parallel to a bug's, as a cosine, is called after it


class Row(NamedTuple):
    """One result, over all cases: the worst of its errors against their bounds."""

    name: str
    shape: tuple[int, ...]
    error: float
    size: float  # the largest true entry of the case where that was
    share: float  # of the bound
    case: str
    right: bool


class Likeness(NamedTuple):
    mutant: Mutant
    cosine: float


@dataclass
class Verdict:
    """`status` is right, wrong, or could not run; the exit code of `check.py candidate` says the same."""

    status: str
    sentence: str
    rows: list[Row] = field(default_factory=list)
    likeness: Likeness | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, whose numbers are finite: what is not becomes a word."""
        rows = [row._asdict() for row in self.rows]
        for row in rows:
            row |= {
                key: str(value) for key, value in row.items() if isinstance(value, float) and not np.isfinite(value)
            }
        bug = self.likeness and {"name": self.likeness.mutant.name, "cosine": self.likeness.cosine}
        return {"status": self.status, "sentence": self.sentence, "looks_like": bug, "results": rows}

    @property
    def exit_code(self) -> int:
        return {"right": 0, "wrong": 1, "could not run": 2}[self.status]


Bugs = list[tuple[Mutant, list[Arrays]]]  # published bugs, each with its results of every case


def judge(request: Request, about: list[Question], answers: Answers, bugs: Bugs | None = None) -> Verdict:
    """Compares the answers with the truth. `bugs`: `known_bugs(request.cell, about)`, if computed already."""
    if answers.problem:
        said = f"Wrong: {answers.problem}." if answers.is_wrong else answers.problem
        return Verdict("wrong" if answers.is_wrong else "could not run", said)
    amiss = missing(request, about, answers) or wrong_shapes(about, answers)
    if amiss:
        return Verdict("wrong", f"Wrong: {amiss}.")
    rows = sorted(rows_of(about, answers), key=spread_order)
    if all(row.right for row in rows):
        most = max(row.share for row in rows)
        sentence = f"Right: all {len(rows)} results in {len(about)} cases are within their bounds, and use {most:.1%}."
        return Verdict("right", sentence + reservations(about, answers), rows)
    sentence, likeness = place(request, about, answers, rows), None
    if all(row.right for row in rows if not row.name.startswith("d.")):
        likeness = likest(about, answers, known_bugs(request.cell, about) if bugs is None else bugs)
    if likeness:
        sentence += f" It looks like {likeness.mutant.name} (cosine {likeness.cosine:.2f}): {likeness.mutant.sentence}"
    return Verdict("wrong", sentence, rows, likeness)


def missing(request: Request, about: list[Question], answers: Answers) -> str:
    """Every gradient is due, in every case and way."""
    one_bias = declared(request.cell, **request.layout).biases == "one"
    for each, runs in zip(about, answers.runs, strict=True):
        due = {name for name in each.truth if name.startswith("d.") and ".layer." not in name}
        due -= {name for name in due if one_bias and name.endswith("bias_hh")}
        for way, run in runs.items():
            if due - run.keys():
                unknown = [name.removeprefix("unknown:") for name in run if name.startswith("unknown:")]
                instead = f", but {', '.join(unknown)}, which nobody asked for" if unknown else ""
                return f"it gives no {', '.join(sorted(due - run.keys()))}{in_case(each, way)}{instead}"
    return ""


def in_case(each: Question, way: str) -> str:
    return f" in case {each.name!r}{', ' + way if way != FIRST else ''}"


def wrong_shapes(about: list[Question], answers: Answers) -> str:
    for each, runs in zip(about, answers.runs, strict=True):
        for way, run in runs.items():
            known = set(run) & set(each.bound)
            for name in known:
                given, due = run[name], each.truth[name]
                if given.shape != due.shape:
                    same = [
                        n for n in known if given.shape == each.truth[n].shape and np.allclose(given, each.truth[n])
                    ]
                    instead = f": it is {same[0]}, under a wrong name" if same else ""
                    return f"{name} has shape {given.shape}, where {due.shape} is due{in_case(each, way)}{instead}"
    return ""


def reservations(about: list[Question], answers: Answers) -> str:
    """What a verdict of right does not cover."""
    given = set(answers.runs[0][FIRST])
    absent = [name for name in about[0].truth if name not in given and not name.startswith(("d.", "layer."))]
    said = f" It gives no {', '.join(absent)}: they are not looked at." if absent else ""
    over_time = [each for each in about if each.case.sizes.T > 1]
    vague = [
        name
        for name in sorted(given & about[0].bound.keys())
        if all(np.median(each.bound[name]) > np.abs(each.truth[name]).max() for each in over_time)
    ]
    if vague:
        said += f" Bounds are wider than the results themselves, so that little is said of {', '.join(vague)}."
    return said


def off(each: Question, run: Arrays) -> Iterator[tuple[str, Array, Array]]:
    """For each result that is given: its distance from the truth, and that as a share of the bound; NaN is infinite."""
    for name, bound in each.bound.items():
        if name in run:
            error = np.abs(run[name] - each.truth[name])
            error = np.where(np.isnan(error), np.inf, error)
            with np.errstate(all="ignore"):
                share = np.where(error == 0, 0.0, error / bound)
            yield name, error, np.where(np.isinf(error), np.inf, share)


def rows_of(about: list[Question], answers: Answers) -> list[Row]:
    worst: dict[str, Row] = {}
    for each, runs in zip(about, answers.runs, strict=True):
        for way, run in runs.items():
            for name, error, share in off(each, run):
                at = share.argmax()
                size = float(np.abs(each.truth[name]).max())
                case = each.name if way == FIRST else f"{each.name}, {way}"
                row = Row(
                    name, error.shape, float(error.flat[at]), size, float(share.max()), case, bool(share.max() <= 1)
                )
                if name not in worst or row.share > worst[name].share:
                    worst[name] = row
    return list(worst.values())


def spread_order(row: Row) -> tuple[int, str]:
    """The order in which an error spreads: forward, then back through the steps, then to what was given."""
    stages = ("output", "final.", "d.layer.", "d.cells.", "d.x", "d.initial.")
    return next(i for i, stage in enumerate(stages) if row.name.startswith(stage)), row.name


def place(request: Request, about: list[Question], answers: Answers, rows: list[Row]) -> str:
    """In words: what is wrong, in which layer and gates, at which steps, on which way."""
    wrong = [row.name + " (not a number)" * math.isinf(row.error) for row in rows if not row.right]
    runs = [(each, run) for each, ways in zip(about, answers.runs, strict=True) for run in ways.values()]
    bad = [(each, {name: share > 1 for name, _, share in off(each, run)}) for each, run in runs]
    bad = [(each, flags) for each, flags in bad if any(flag.any() for flag in flags.values())]
    when = only_in(about, answers)
    forward = [name for name in wrong if not name.startswith("d.")]
    if forward:
        steps = steps_of(bad[0][1].get("output", np.zeros(0)))
        order = fitting_gates(request, about[0], answers.runs[0][FIRST])
        advice = f" It would be right with its gates in the order {order}: declare --gates {order}." if order else ""
        if request.cell == "gru" and same_output(about[0], answers.runs[0][FIRST], reset_before(about[0].case)):
            advice = " It is the other GRU, whose reset gate acts before the product: that one is not known here."
        return f"Wrong forward{when}: {', '.join(forward)}{steps and f', {steps}'}.{advice}"
    words = [f"Wrong backward{when}: {', '.join(wrong)}"]
    layer = max((int(name.split(".")[2]) for name in wrong if name.startswith("d.cells.")), default=0)
    if request.layers > 1:
        words.append(f"from layer {layer} down" if layer else "in layer 0")
    words += [wrong_gates(request.cell, layer, bad), wrong_steps(layer, bad)]
    alone = {each.name for each, _ in bad if each.name.endswith(" alone")}
    asked = {each.name for each in about if each.name.endswith(" alone")}
    if alone != asked and alone:
        words.append(
            f"when the gradient arrives at {' and '.join(name.removesuffix(' alone') for name in sorted(alone))}"
        )
    return ", ".join(filter(None, words)) + "."


def fitting_gates(request: Request, each: Question, run: Arrays) -> str:
    """The order of gates that gives the candidate's output, if one does: then the layout is declared wrongly."""
    told = declared(request.cell, **request.layout).letters()
    for order in permutations(told):
        if list(order) == told:
            continue
        moved = dict(each.case.parameters)
        for name, value in each.case.parameters.items():
            gates = gate_blocks(request.cell, value)
            read_as = {theirs: gates[ours] for theirs, ours in zip(order, told, strict=True)}
            moved[name] = np.concatenate([read_as[gate] for gate in gates])
        output = by_hand(Case(**{**vars(each.case), "parameters": moved}), np.copy)["output"]
        if same_output(each, run, output):
            return "".join(order)
    return ""


def same_output(each: Question, run: Arrays, output: Array) -> bool:
    return "output" in run and bool((np.abs(output - run["output"]) <= each.bound["output"]).all())


def reset_before(case: Case) -> Array:
    """The output of a single GRU layer as its authors wrote it (Cho et al., 2014): n reads r ∘ h."""
    p, h = (
        {name.removeprefix("cells.0."): value for name, value in case.parameters.items()},
        case.inputs["initial.h"][0],
    )
    outputs = []
    for x_part in case.inputs["x"] @ p["weight_ih"].T + p["bias_ih"]:
        W_r, W_z, W_n = np.split(p["weight_hh"], 3)
        b_r, b_z, b_n = np.split(p["bias_hh"], 3)
        x_r, x_z, x_n = np.split(x_part, 3, axis=-1)
        r, z = sigmoid(x_r + h @ W_r.T + b_r), sigmoid(x_z + h @ W_z.T + b_z)
        h = (1 - z) * np.tanh(x_n + (r * h) @ W_n.T + b_n) + z * h
        outputs.append(h)
    return np.stack(outputs)


def wrong_steps(layer: int, bad: list[tuple[Question, dict[str, Array]]]) -> str:
    """Which steps' gates get wrong gradients; where only ∂L/∂x tells, which steps' inputs do.

    A gradient that arrives in one place only shows best how far back it is right.
    """
    for each, flags in sorted(bad, key=lambda of: not of[0].name.endswith(" alone")):
        deltas = flags.get(f"d.layer.{layer}.x_part", flags.get("d.x", np.zeros(0)))
        if deltas.any() and len(deltas) > 1:
            way = f" with a gradient at {each.name}" if each.name.endswith(" alone") else ""
            return steps_of(deltas) + way
    return ""


def only_in(about: list[Question], answers: Answers) -> str:
    """The ways of running it that alone go wrong, in words, where plain runs go right."""
    wrong = {
        way for each, runs in zip(about, answers.runs, strict=True) for way, run in runs.items() if off_bound(each, run)
    }
    told = [words for way, words in WAYS.items() if way in wrong]
    return "" if FIRST in wrong else f", but only {' and '.join(told)}"


def off_bound(each: Question, run: Arrays) -> bool:
    return any((share > 1).any() for _, _, share in off(each, run))


def wrong_gates(cell: str, layer: int, bad: list[tuple[Question, dict[str, Array]]]) -> str:
    """Which gates' rows are wrong, if not all are."""
    found: dict[str, bool] = {}
    for _, flags in bad:
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            if f"d.cells.{layer}.{name}" in flags:
                for gate, rows in gate_blocks(cell, flags[f"d.cells.{layer}.{name}"]).items():
                    found[gate] = found.get(gate, False) or bool(rows.any())
    named = [gate for gate, is_wrong in found.items() if is_wrong]
    return f"gate{'s' * (len(named) > 1)} {', '.join(named)}" if 0 < len(named) < len(found) else ""


def steps_of(flags: Array) -> str:
    """Which steps of (T, ...) are wrong."""
    wrong = [t for t, step in enumerate(flags) if step.any()]
    if not wrong or len(flags) == 1:
        return ""
    if len(wrong) == len(flags):
        return "at every step"
    if wrong == list(range(len(wrong))):
        return f"from step {wrong[-1]} of 0 to {len(flags) - 1} back"
    return f"at step{'s' * (len(wrong) > 1)} {', '.join(map(str, wrong))} of 0 to {len(flags) - 1}"


def known_bugs(cell: str, about: list[Question]) -> Bugs:
    """What each published bug that a stack of this cell can have makes of every case."""
    found = []
    for mutant in MUTANTS:
        if mutant.scope == "layers" and mutant.cell in ("", cell):
            with applied(mutant):
                found.append((mutant, [by_hand(each.case, np.copy) for each in about]))
    return found


def likest(about: list[Question], answers: Answers, bugs: Bugs) -> Likeness | None:
    """The published bug whose residual, over all cases and gradients given, is the most parallel to the candidate's."""

    def residual(results: list[Arrays]) -> Array:
        parts = []
        for each, result, runs in zip(about, results, answers.runs, strict=True):
            for name in each.truth:
                if name.startswith("d.") and ".layer." not in name and name in runs[FIRST]:
                    if result[name].shape != each.truth[name].shape:
                        return np.zeros(0)
                    parts.append((result[name] - each.truth[name]).ravel())
        return np.concatenate(parts)

    theirs = residual([runs[FIRST] for runs in answers.runs])
    if not np.isfinite(theirs).all():
        return None
    found = []
    for mutant, results in bugs:
        known = residual(results)
        norms = float(np.linalg.norm(known) * np.linalg.norm(theirs))
        if norms:  # and so they are of one length
            found.append(Likeness(mutant, float(known @ theirs) / norms))
    best = max(found, key=lambda likeness: likeness.cosine, default=None)
    return best if best and best.cosine >= SURE else None
