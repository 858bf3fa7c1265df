"""check.py as users call it: tables, verdicts, exit codes, and one line for each mistake."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from bptt.verify.mutants import MUTANTS, applied
from datamodules.streams import Window
from models.language_model import LanguageModel
from tests.equivalence.test_within_ulps import ULPS
from tests.scripts import ROOT, run
from tests.test_scripts import CONFIGS
from twins import pairs


def test_the_published_bugs_are_all_caught_and_vectors_are_written(tmp_path: Path) -> None:
    done = run("check.py", "mutants")
    assert done.returncode == 0 and done.stdout.endswith(f"{len(MUTANTS)} bugs; the exact cases miss none.\n")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    let_pass = re.search(rf"let pass +│ of {len(MUTANTS)} bugs +│ (.+) │", done.stdout)
    assert f"| tested with | bugs let pass, of {len(MUTANTS)} |" in readme
    assert let_pass and re.findall(r"\d+", let_pass[1]) == re.findall(r"\| (\d+) \|\n", readme)[:5]
    done = run("check.py", "vectors", str(tmp_path / "vectors"))
    assert done.returncode == 0 and len(list((tmp_path / "vectors").iterdir())) == 46


@pytest.mark.parametrize(
    "config", [path for path in CONFIGS if path.stem != "large"], ids=lambda path: path.stem
)  # a window of large.yaml would take NumPy minutes
def test_the_model_of_every_config_agrees_with_its_numpy_twin(config: Path, tmp_path: Path) -> None:
    text, table = tmp_path / "text.txt", tmp_path / "table.tsv"
    text.write_text("def double(number):\n    return 2 * number\n" * 120, encoding="utf-8")
    table.write_text("text\tlabel\n" + "It is good!\t1\nIt is not\t0\n" * 60, encoding="utf-8")
    classifies = "task: classify" in config.read_text(encoding="utf-8")
    done = run("check.py", "model", "--config", str(config), "--data.path", str(table if classifies else text))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    results = done.stdout.count("│ right")
    assert results >= 8 and f"all {results} results agree, to rounding" in done.stdout


def test_a_twin_that_is_wrong_is_noticed() -> None:
    torch.manual_seed(0)
    model, batch = LanguageModel(11, "gru", 3, 5).double(), Window(torch.randint(0, 11, (9, 2)), True)
    assert all(pair.apart <= pair.allowed for pair in pairs(model, batch))
    model.zero_grad()
    with applied(next(mutant for mutant in MUTANTS if mutant.name == "gru-reset-before")):
        assert {pair.name for pair in pairs(model, batch) if pair.apart > pair.allowed} >= {
            "d.recurrent.cells.0.weight_hh",
            "d.recurrent.cells.0.bias_hh",
        }


def test_precision_is_measured_in_every_format() -> None:
    done = run("check.py", "precision")
    assert done.returncode == 0 and done.stderr == ""
    rows = [line.strip("│ ").split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    assert len(rows) == 9 and sum("-" in row[2].split() for row in rows) == 3  # NumPy has no bfloat16
    for entry in (entry for row in rows for entry in row[2:] if "/" in entry):
        median, worst = map(float, entry.split("/"))
        assert 0 < median < worst < ULPS


def test_a_stranger_is_judged_with_an_exit_code_and_json(tmp_path: Path) -> None:
    (tmp_path / "homework.py").write_text(homework("dc = dh * o"), encoding="utf-8")
    options = ["--cell", "lstm", "--names", "weight_ih=W,weight_hh=U,bias_ih=b", "--one_bias", "--transposed"]
    done = run("check.py", "candidate", "homework.py:LSTM", *options, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    assert "looks like lstm-overwritten-dc (cosine 1.00)" in " ".join(done.stdout.split())
    (tmp_path / "homework.py").write_text(homework("dc = dc + dh * o"), encoding="utf-8")
    done = run("check.py", "candidate", "homework.py:LSTM", *options, "--quick", "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "right"


def homework(line: str) -> str:
    """The example of the README, with this line for its dc."""
    source = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\nimport torch")[1].split("```")[0]
    assert "dc = dh * o" in source
    return "import torch" + source.replace("dc = dh * o", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either path/to/file.py:name or --exec"),
        (["nowhere.py:LSTM"], "nowhere.py: no such file"),
        (["check.py:missing"], "check.py has no 'missing'"),
        (
            ["check.py:main"],
            "called otherwise than expected; give a torch module: a class that is called as nn.LSTM is",
        ),
        (["torch.nn:LSTM", "--gates", "ifgx"], "'ifgx' are not the gates of lstm: order ifgo"),
        (["torch.nn:LSTM", "--layout", "mxnet"], "mxnet"),
        (["torch.nn:LSTM", "--names", "weight_ih"], "--names is 'weight_ih': write ours=theirs"),
        (["torch.nn:LSTM", "--gates", ""], "'' are not the gates of lstm"),
        (["torch.nn:LSTM", "--device", "nowhere"], "nowhere"),
        (["torch.nn:LSTM", "--layers", "2", "--one_bias"], "is no parameter of this cell in this layout"),
        (["TMP/broken.py:LSTM"], "it raises SyntaxError"),
        (["--exec", "true --device '"], "is no command"),
        (["--exec", "true", "--device", "cuda"], "--device cuda is for torch"),
        (["torch.nn:LSTM", "--layers", "0"], "--layers must be 1 to 4"),
        (["torch.nn:LSTM", "--layers", str(10**20)], "--layers must be 1 to 4"),
        (["torch.nn:LSTM", "--time_limit", "1e300"], "--time_limit more than 0, in seconds, and at most a day"),
        (["torch.nn:LSTM", "--time_limit", "-1"], "--time_limit more than 0"),
        (["torch.nn:LSTM", "--names", "weight_ih=W,weight_hh=W"], "each name can stand there once"),
        (["torch.nn:LSTM", "--names", "weight_ih=W,weight_ih=V"], "each name can stand there once"),
        ([""], "give either path/to/file.py:name or --exec"),
        (["--exec", ""], "give either path/to/file.py:name or --exec"),
        (["torch.nn:LSTM", "--vectors", ""], "SHA256SUMS: no such file"),
        (["torch.nn:LSTM", "--vectors", "README.md"], "SHA256SUMS: no such file"),
        (["--exec", "mkdir {out}"], "mkdir wrote no file to {out}"),
        (["torch.nn:LSTM", "--vectors", "configs"], "SHA256SUMS: no such file"),
        (["--exec", "./README.md {case} {out}"], "Permission denied; give a program that can be executed"),
    ],
)
def test_a_mistake_in_checking_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("class LSTM(:\n", encoding="utf-8")
    given = [argument.replace("TMP", str(tmp_path)) for argument in arguments]
    done = run("check.py", "candidate", "--cell", "lstm", "--quick", *given, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vectors", ""], "give the folder that the vectors are to be written to"),
        (["vectors", "README.md"], "README.md"),
        (["model", "--config", "nowhere.yaml"], "nowhere.yaml: no such file; give a config"),
        (["model", "--config", "configs"], "configs: no such file; give a config"),
        (["model", "--config", "configs/lstm.yaml", "--data.path", ""], "--data.path is empty"),
        (["mutants", "more"], "more"),
        ([], "subcommand"),
    ],
)
def test_a_mistake_in_another_command_is_one_line(arguments: list[str], message: str) -> None:
    done = run("check.py", *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.py"
    os.mkfifo(pipe)
    for arguments in (["candidate", "--cell", "rnn", "--quick", f"{pipe}:mine"], ["model", "--config", str(pipe)]):
        done = run("check.py", *arguments)
        assert done.returncode == 2 and "pipe.py: no such file" in done.stderr, done.stderr


def test_names_that_a_candidate_makes_up_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    names = "' \\x1b[31m': 0, ' \\ud800': 0, ' a\\nb': 0"
    source = f"def mine(case):\n    return {{str(i): 0 for i in range(10**4)}} | {{{names}}}\n"
    (tmp_path / "names.py").write_text(source, encoding="utf-8")
    done = run("check.py", "candidate", "--cell", "rnn", "--quick", "names.py:mine", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == "" and "it gives no d.cells.0.bias_hh" in done.stdout
    assert "\\x1b[31m" in done.stdout and "\x1b" not in done.stdout and len(done.stdout) < 1000
