"""Strangers that behave badly get a verdict that says so, and those that cannot be run a reason in one line."""

import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptt.verify.trials import Answers, Question, Request, ask, ask_here, from_vectors, questions
from bptt.verify.verdict import Verdict, judge

VECTORS = Path(__file__).parents[2] / "bptt" / "verify" / "vectors"
NUMPY = """
    import numpy as np
    from bptt.cells import CELLS
    from bptt.layers import Recurrent

    def right(case, cell="rnn"):
        state = CELLS[cell].state
        network = Recurrent(cell, len(case["initial.h"]))
        initial, final = (state(*(case[of + part] for part in state._fields)) for of in ("initial.", "d.final."))
        output, last, traces = network.forward(case, case["x"], initial)
        d = network.backward(case, case["d.output"], final, traces)
        found = {"output": output, "d.x": d.x} | {f"d.{name}": value for name, value in d.parameters.items()}
        found |= {f"final.{part}": value for part, value in last._asdict().items()}
        found |= {f"d.initial.{part}": value for part, value in d.initial_state._asdict().items()}
        return found | {f"d.layer.{i}.x_part": of.x_part for i, of in enumerate(d.layers)}
"""
TORCH = """
    import torch
    from torch import nn

    class Mine(nn.Module):
        def __init__(self, input_size, hidden_size):
            super().__init__()
            self.V, self.W = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)

        def forward(self, x, state):
            outputs, h = [], state[0]
            for x_t in x:
                h = torch.tanh(self.V(x_t) + self.W(h))
                outputs.append(h)
            return torch.stack(outputs), h[None]

    def function(x, h, p):
        outputs, h = [], h[0]
        for x_t in x:
            a = x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
            h = torch.tanh(a)
            outputs.append(h)
        return torch.stack(outputs), h
"""


LIMIT = 120  # seconds, to end a hang


@pytest.fixture(autouse=True)
def same_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that is loaded into this process leaves nothing behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "candidate", sys)


def verdict(tmp_path: Path, source: str, name: str = "mine", limit: float = LIMIT, **options: Any) -> Verdict:
    request, about = written(tmp_path, source, name, **options)
    return judge(request, about, ask(request, about, limit))


def verdict_here(tmp_path: Path, source: str, name: str, **options: Any) -> Verdict:
    """Without a process of its own, which would import torch anew."""
    request, about = written(tmp_path, source, name, **options)
    return judge(request, about, ask_here(request, about))


def written(tmp_path: Path, source: str, name: str, **options: Any) -> tuple[Request, list[Question]]:
    file = tmp_path / "candidate_file.py"
    file.write_text(textwrap.dedent(source), encoding="utf-8")
    request = Request(f"{file}:{name}", **{"cell": "rnn", **options})
    return request, questions(request, quick=True)


def numpy_verdict(tmp_path: Path, body: str, **options: Any) -> Verdict:
    return verdict(tmp_path, NUMPY + f"\n    def mine(case):\n        {body}\n", **options)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_numpy_function_that_is_right(tmp_path: Path, cell: str, dtype: str) -> None:
    found = numpy_verdict(tmp_path, f"return right(case, {cell!r})", cell=cell, dtype=dtype, layers=2)
    assert (found.status, found.exit_code) == ("right", 0), found.sentence


def test_torch_modules_and_functions_that_are_right(tmp_path: Path) -> None:
    names = {"weight_ih": "V.weight", "weight_hh": "W.weight", "bias_ih": "V.bias", "bias_hh": "W.bias"}
    found = verdict(tmp_path, TORCH, "Mine", layout={"names": names}, dtype="bfloat16")
    assert found.status == "right", found.sentence
    found = verdict_here(tmp_path, TORCH, "function")
    assert found.status == "right", found.sentence
    found = verdict_here(tmp_path, TORCH, "Mine")
    assert found.exit_code == 2 and "there is no parameter 'weight_ih' for layer 0, but V.weight" in found.sentence


@pytest.mark.parametrize(("cell", "name"), [("lstm", "LSTM"), ("gru", "GRU"), ("rnn", "RNN")])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_layers_of_torch_are_right_in_every_format(cell: str, name: str, dtype: str) -> None:
    request = Request(f"torch.nn:{name}", cell, layers=2 if dtype == "float64" else 1, dtype=dtype)
    about = questions(request)
    found = judge(request, about, ask_here(request, about))
    assert found.status == "right", found.sentence


WRONG = {
    "of another shape": ("return right(case) | {'output': case['x']}", "output has shape (5, 2, 3), where (5, 2, 4)"),
    "not a number": ("return right(case) | {'d.x': case['x'] * np.nan}", "Wrong backward: d.x (not a number)"),
    "changes its inputs": ("case['x'][0] = 0; return right(case)", "it changes its inputs in place"),
    "no dictionary": ("return [1]", "it returns a list, where a dictionary of results by name is due"),
    "no gradients": (
        "return {'output': right(case)['output']}",
        "it gives no d.cells.0.bias_hh, d.cells.0.bias_ih",
    ),
    "misspelt": (
        "r = right(case); r['dx'] = r.pop('d.x'); return r",
        "it gives no d.x in case 'usual', but dx, which",
    ),
    "partial the second time": (
        "right.calls = getattr(right, 'calls', 0) + 1; r = right(case); return r if right.calls < 9 else {}",
        "in case 'sum of outputs', again",
    ),
    "wrong in one step": (
        "r = right(case); r['d.layer.0.x_part'][:3] *= 2; r['d.cells.0.weight_hh'] *= 2; return r",
        "from step 2 of 0 to 4 back",
    ),
    "wrong forward": ("r = right(case); r['output'][3:] *= 1.001; return r", "Wrong forward: output, at steps 3, 4 of"),
    "remembers": (
        "right.calls = getattr(right, 'calls', 0) + 1; r = right(case); "
        "r['d.cells.0.bias_ih'] *= 1 + (right.calls % 3 == 0); return r",
        "but only when it has seen other inputs",
    ),
    "of a wrong name": (
        "r = right(case); r['d.cells.0.weight_ih'] = r['d.cells.0.weight_hh']; return r",
        "d.cells.0.weight_ih has shape (4, 4), where (4, 3) is due",
    ),
}
CANNOT = {
    "raises": ("return 1 / 0", "it raises ZeroDivisionError: division by zero (candidate_file.py, line"),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "it crashes: SIGSEGV"),
    "exits": ("import os; os._exit(7)", "it ends the process with exit code 7"),
    "exits politely": ("import os; os._exit(0)", "it ends the process before it has answered"),
    "never ends": ("import time; time.sleep(1000)", "it does not end: stopped after 2 s"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_called_wrong(kind: str, tmp_path: Path) -> None:
    body, message = WRONG[kind]
    found = numpy_verdict(tmp_path, body)
    assert (found.status, found.exit_code) == ("wrong", 1)
    assert message in found.sentence, found.sentence


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_be_run_says_why(kind: str, tmp_path: Path) -> None:
    body, message = CANNOT[kind]
    found = numpy_verdict(tmp_path, body, limit=2 if kind == "never ends" else LIMIT)
    assert (found.status, found.exit_code) == ("could not run", 2)
    assert message in found.sentence, found.sentence


def test_what_is_not_there_or_called_otherwise(tmp_path: Path) -> None:
    for name, message in (
        ("missing", "has no 'missing'; it has Recurrent, right, four"),
        ("four", "called otherwise than expected; give a torch module"),
    ):
        found = verdict(tmp_path, NUMPY + "\n    def four(x, y, z, w):\n        return x\n", name)
        assert found.exit_code == 2 and message in found.sentence, found.sentence
    request = Request("nowhere.py:mine", "rnn")
    assert ask(request, questions(request, quick=True), LIMIT).problem == "nowhere.py: no such file"
    found = numpy_verdict(tmp_path, "return right(case)", dtype="bfloat16")
    assert found.exit_code == 2 and "NumPy has no bfloat16" in found.sentence


PROGRAM = """
    import sys
    from bptt.verify.vector_files import parse_text, text
    from candidate_file import right

    def main(source, target):
        sizes, arrays = parse_text(open(source).read())
        results = right({name.split(":")[1]: value for name, value in arrays.items()}, "lstm")
        open(target, "w").write(text({}, {"result": results})[: int("BROKEN") or None])

    main(*sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("command", "broken", "status", "message"),
    [
        ("python {program} {{case}} {{out}}", "0", "right", "are within their bounds"),
        ("python {program} {{case}} {{out}}", "-60", "could not run", "wrote a broken file"),
        ("python {program} {{case}}", "0", "could not run", "ended with exit code 1: TypeError"),
        ("true", "0", "could not run", "wrote no file to {out}"),
        ("{program} {{case}} {{out}}", "0", "could not run", "Permission denied; give a program that can be executed"),
    ],
)
def test_any_program_over_files(tmp_path: Path, command: str, broken: str, status: str, message: str) -> None:
    (tmp_path / "candidate_file.py").write_text(textwrap.dedent(NUMPY), encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).replace("BROKEN", broken), encoding="utf-8")
    request = Request(command.format(program=program), "lstm", program=True)
    about = questions(request, quick=True)[:2]
    found = judge(request, about, ask(request, about, LIMIT))
    assert found.status == status and message in found.sentence, found.sentence


def test_the_test_vectors_serve_as_cases(tmp_path: Path) -> None:
    request = Request("torch.nn:LSTM", "lstm")
    about = from_vectors(request, VECTORS)
    assert len(about) == 2 and judge(request, about, ask_here(request, about)).status == "right"
    with pytest.raises(ValueError, match="no smooth case of lstm with 3 layers"):
        from_vectors(Request("torch.nn:LSTM", "lstm", layers=3), VECTORS)
    shutil.copytree(VECTORS, tmp_path, dirs_exist_ok=True)
    damaged = next(tmp_path.glob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ValueError, match=re.escape(f"{damaged} is not what SHA256SUMS says it is")):
        from_vectors(request, tmp_path)


def test_a_layout_declared_wrongly_is_recognised() -> None:
    request = Request("torch.nn:LSTM", "lstm", layout={"gates": "ofig"}, dtype="float32")
    about = questions(request, quick=True)
    found = judge(request, about, ask_here(request, about))
    assert found.status == "wrong" and "Wrong forward: output" in found.sentence
    assert "It would be right with its gates in the order ifgo: declare --gates ifgo." in found.sentence


def test_the_other_gru_is_recognised(tmp_path: Path) -> None:
    body = """found = right(case, "gru")
        from bptt.verify.verdict import reset_before
        class Case: parameters, inputs = case, case
        return found | {"output": reset_before(Case)}"""
    found = numpy_verdict(tmp_path, body, cell="gru")
    assert "the other GRU, whose reset gate acts before the product" in found.sentence


def test_a_verdict_is_fit_for_json() -> None:
    request = Request("", "rnn")
    about = questions(request, quick=True)
    run = about[0].truth | {"d.x": about[0].truth["d.x"] * np.nan}
    found = judge(request, about[:1], Answers([{"first": run}])).as_dict()
    assert found["status"] == "wrong" and found["looks_like"] is None
    assert [row["share"] for row in found["results"] if row["name"] == "d.x"] == ["inf"]


SUBTLE = """
    import torch
    from torch import nn

    class Tanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            h = a.tanh()
            ctx.save_for_backward(h.clone())
            return h

        @staticmethod
        def backward(ctx, d):
            h, = ctx.saved_tensors
            return d * (1 - h**2)

    class Eat(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a.clone()

        @staticmethod
        def backward(ctx, d):
            g = d.clone()
            d.zero_()
            return g

    class Mine(nn.RNN):
        first = None

        def forward(self, x, state):
            W, U, b, b_h = (getattr(self, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            outputs, h = [], state[0]
            for t, x_t in enumerate(x):
                h = Tanh.apply(x_t @ W.T + b + h @ U.T + b_h)
                outputs.append(h)
            return torch.stack(outputs), h[None]
"""
LAST, STEP = "return torch.stack(outputs), h[None]", "h = Tanh.apply("
BUGS = {
    "nothing": ("", "", "Right: all 8 results"),
    "keeps the first input": (
        "outputs, h", "self.first = x = x if self.first is None else self.first\n            outputs, h",
                              "Wrong forward: output"),
    "eats what it saved": ("return d * (1 - h**2)", "g = d * (1 - h**2); h.data.zero_(); return g",
                           "but only when the backward pass runs a second time"),
    "eats what arrives": (LAST, "return Eat.apply(torch.stack(outputs)), h[None]", "changes the gradient that arrives"),
    "cut after 16 steps": (STEP, "h = h.detach() if t % 16 == 15 else h\n                h = Tanh.apply(", "Wrong"),
    "clips": ("return d * (1", "return d.clamp(-99, 99) * (1", "Wrong backward"),
    "answers in float32": (LAST, "return torch.stack(outputs).float(), h[None]", "output is float32, where float64"),
    "computes in float32": (STEP, "h = h.float().double()\n                h = Tanh.apply(", "Wrong forward"),
    "returns three": (LAST, "return outputs, h, h", "it returns a tuple of 3, where (output, state) is due"),
    "returns arrays": (LAST, "return torch.stack(outputs).detach().numpy(), h[None]", "output is a ndarray"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_what_only_a_second_look_shows(bug: str, tmp_path: Path) -> None:
    true, false, message = BUGS[bug]
    assert SUBTLE.count(true) == 1 or not true
    file = tmp_path / "candidate_file.py"
    file.write_text(textwrap.dedent(SUBTLE.replace(true, false) if true else SUBTLE), encoding="utf-8")
    request = Request(f"{file}:Mine", "rnn")
    about = questions(request)
    found = judge(request, about, ask_here(request, about))
    assert message in found.sentence, found.sentence
    assert found.exit_code == (bug != "nothing")


def test_keras_has_one_bias_where_it_has_one(tmp_path: Path) -> None:
    source = """
    import torch
    from torch import nn

    class Mine(nn.Module):
        def __init__(self, i, h, layers):
            super().__init__()
            for name, shape in (("kernel", (i, h)), ("recurrent_kernel", (h, h)), ("bias", (h,))):
                self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

        def forward(self, x, state):
            outputs, h = [], state[0]
            for x_t in x:
                h = torch.tanh(x_t @ self.kernel + h @ self.recurrent_kernel + self.bias)
                outputs.append(h)
            return torch.stack(outputs), h

    def made(i, h):
        return Mine(i, h, 1)
    """
    for name in ("Mine", "made"):
        found = verdict_here(tmp_path, source, name, layout={"layout": "keras"})
        assert found.status == "right", found.sentence


def test_bfloat16_says_where_it_says_little() -> None:
    request = Request("", "lstm", dtype="bfloat16", layers=3)
    about = questions(request, quick=True)
    found = judge(request, about, Answers([{"first": each.truth} for each in about]))
    assert found.status == "right" and "Bounds are wider than the results themselves" in found.sentence
    request = Request("", "lstm", dtype="bfloat16")
    about = questions(request, quick=True)
    assert "wider" not in judge(request, about, Answers([{"first": each.truth} for each in about])).sentence
