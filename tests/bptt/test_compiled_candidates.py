"""Candidates of torch that are compiled, scripted or made by a function are judged, or refused with what is missing."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bptt.verify.trials import Request, ask_here, questions
from bptt.verify.verdict import Verdict, judge

SOURCE = """
    from functools import partial
    from typing import Dict, Tuple

    import torch
    from torch import Tensor, nn


    class Mine(nn.Module):
        def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1):
            super().__init__()
            self.V, self.W = nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, hidden_size)

        def forward(self, x: Tensor, state: Tensor) -> Tuple[Tensor, Tensor]:
            outputs, h = [], state[0]
            for t in range(x.shape[0]):
                h = torch.tanh(self.V(x[t]) + self.W(h))
                outputs.append(h)
            return torch.stack(outputs), h[None]


    class Wrong(Mine):
        def forward(self, x: Tensor, state: Tensor) -> Tuple[Tensor, Tensor]:
            outputs, h = [], state[0]
            for t in range(x.shape[0]):
                h = torch.tanh(self.V(x[t]) + self.W(h.detach()))
                outputs.append(h)
            return torch.stack(outputs), h[None]


    def function(x: Tensor, state: Tensor, p: Dict[str, Tensor]) -> Tuple[Tensor, Tensor]:
        outputs, h = [], state[0]
        for t in range(x.shape[0]):
            a = x[t] @ p["weight_ih_l0"].t() + p["bias_ih_l0"] + h @ p["weight_hh_l0"].t() + p["bias_hh_l0"]
            h = torch.tanh(a)
            outputs.append(h)
        return torch.stack(outputs), h[None]


    def compiles(input_size, hidden_size):
        return torch.compile(Mine(input_size, hidden_size), backend="aot_eager")


    def compiles_what_is_wrong(input_size, hidden_size):
        return torch.compile(Wrong(input_size, hidden_size), backend="aot_eager")


    def compiles_to_c(input_size, hidden_size):
        return torch.compile(Mine(input_size, hidden_size))


    def scripts(input_size, hidden_size):
        return torch.jit.script(Mine(input_size, hidden_size))


    def scripts_what_is_wrong(input_size, hidden_size):
        return torch.jit.script(Wrong(input_size, hidden_size))


    def with_layers(input_size, hidden_size, num_layers):
        return Mine(input_size, hidden_size, num_layers)


    def in_numbers(i: int, h: int, more: int):
        return Mine(i, h)


    def of_something_else(input_size, hidden_size):
        return function


    compiled_function, scripted_function = torch.compile(function, backend="aot_eager"), torch.jit.script(function)
    part, of_torch = partial(Mine, num_layers=1), partial(nn.RNN, nonlinearity="tanh")
    add = torch.add
    made, compiled, scripted = Mine(3, 4), compiles(3, 4), scripts(3, 4)
"""
NAMES = {"weight_ih": "V.weight", "weight_hh": "W.weight", "bias_ih": "V.bias", "bias_hh": "W.bias"}
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:Guards may run slower on Python 3.13.0",  # torch.compile, of that Python alone
)


@pytest.fixture(autouse=True)
def same_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that is loaded into this process leaves nothing behind."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "candidate", sys)


def verdict(tmp_path: Path, name: str, cases: int = 4, **layout: Any) -> Verdict:
    file = tmp_path / "compiled.py"
    file.write_text(textwrap.dedent(SOURCE), encoding="utf-8")
    request = Request(f"{file}:{name}", "rnn", layout=layout)
    about = questions(request, quick=True)[:cases]
    return judge(request, about, ask_here(request, about))


@pytest.mark.parametrize("name", ["compiles", "scripts", "with_layers", "in_numbers", "part"])
def test_modules_however_they_are_made_are_right(name: str, tmp_path: Path) -> None:
    found = verdict(tmp_path, name, names=NAMES)
    assert found.status == "right", found.sentence


@pytest.mark.parametrize("name", ["compiled_function", "scripted_function", "of_torch"])
def test_compiled_functions_and_parts_of_torch_are_right(name: str, tmp_path: Path) -> None:
    found = verdict(tmp_path, name)
    assert found.status == "right", found.sentence


@pytest.mark.slow
@pytest.mark.compiler
def test_a_module_that_torch_compiles_to_c_is_right(tmp_path: Path) -> None:
    found = verdict(tmp_path, "compiles_to_c", cases=1, names=NAMES)
    assert found.status == "right", found.sentence


@pytest.mark.parametrize("name", ["compiles_what_is_wrong", "scripts_what_is_wrong"])
def test_compiled_modules_that_are_wrong_are_called_wrong(name: str, tmp_path: Path) -> None:
    found = verdict(tmp_path, name, names=NAMES)
    assert found.exit_code == 1 and "Wrong backward: d.cells.0.bias_hh" in found.sentence, found.sentence


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("made", "it is a module that is made already: give its class, or a function that makes it"),
        (
            "compiled",
            "it is a compiled module that is made already, of one size: give a function (input_size, hidden_s",
        ),
        (
            "scripted",
            "it is a ScriptModule that is made already, of one size: give a function (input_size, hidden_size)",
        ),
        (
            "of_something_else",
            "of_something_else is not a class that is called as nn.LSTM is, or a function that makes",
        ),
        ("add", "called otherwise than expected; give a torch module"),
        ("Tensor", "called otherwise than expected; give a torch module"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_what_it_is(name: str, message: str, tmp_path: Path) -> None:
    found = verdict(tmp_path, name, names=NAMES)
    assert found.exit_code == 2 and message in found.sentence, found.sentence
