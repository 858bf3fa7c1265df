"""`python -m benchmarks gpu`: parts end in time, go on where they were stopped, and what fails is in the table."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_parts, gpu_rows
from benchmarks.__main__ import main
from benchmarks.gpu import DONE, FAILED, LIMIT, PARTS, ROOT, UNFINISHED
from benchmarks.gpu_rows import RESTART, STOPPED

NEVER, PAST = time.monotonic() + 10**6, time.monotonic() - 1
CPU = {"device": "cpu", "dry_run": True}


def test_the_parts_take_nine_minutes_at_most() -> None:
    assert sum(PARTS.values()) <= LIMIT <= 9 * 60 - 15
    assert set(PARTS) - {"tests"} == set(gpu_parts.TODO)


def failing() -> Any:
    raise RuntimeError("out of\nmemory")


def test_a_row_that_fails_is_recorded_and_the_next_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    gpu_rows.measure(path, {"a": failing, "b": lambda: {"ours": 1}}, NEVER)
    rows = gpu_rows.read(path)
    assert rows["a"]["error"] == "RuntimeError: out of memory" and rows["b"]["ours"] == 1
    gpu_rows.measure(path, {"a": lambda: {}, "b": failing, "c": lambda: {"note": "new"}}, NEVER)
    assert list(gpu_rows.read(path)) == ["a", "b", "c"] and gpu_rows.read(path)["b"]["ours"] == 1


def test_what_was_stopped_in_a_row_goes_on_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    gpu_rows.append(path, {"row": "a", "ours": 1})
    gpu_rows.begin(path, "b")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"row": "c", "ou')
    assert gpu_rows.read(path) == {"a": {"row": "a", "ours": 1}, "b": {"row": "b", "error": STOPPED}}
    with path.open("a", encoding="utf-8") as file:
        file.write("\n")
    gpu_rows.measure(path, dict.fromkeys("abc", lambda: {"ours": 2}), NEVER)
    assert [row.get("ours") for row in gpu_rows.read(path).values()] == [1, None, 2]


def test_no_row_begins_when_time_is_up_or_the_gpu_answers_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(SystemExit) as stopped:
        gpu_rows.measure(path, {"a": lambda: {}}, PAST)
    assert stopped.value.code == gpu_rows.UNFINISHED and not path.exists()
    monkeypatch.setattr(gpu_rows, "gpu_answers", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        gpu_rows.measure(path, {"a": failing, "b": lambda: {}}, NEVER)
    assert stopped.value.code == RESTART and list(gpu_rows.read(path)) == ["a"]


Process = Callable[..., int]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the processes of each part do, one after the other: rows that they write, and the exit code. What is not
    there writes one row and ends well."""
    scripts: dict[str, list[Any]] = {}

    def run_process(part: str, folder: Path, settings: Any, seconds: float, log: Any) -> int:
        assert seconds > 0
        rows, code = scripts[part].pop(0) if scripts.get(part) else ([{"row": part, "note": "well"}], 0)
        for row in rows:
            gpu_rows.append(folder / f"{part}.jsonl", row)
        log.write(f"{part} ended with {code}\n")
        return int(code)

    monkeypatch.setattr(gpu, "run_process", run_process)
    return scripts


def result(folder: Path, part: str) -> Any:
    return json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))


def test_every_part_has_its_file_and_all_rows_are_in_the_table(parts: dict[str, list[Any]], tmp_path: Path) -> None:
    figures = {"ours": 1234.5, "theirs": 0.01234, "unit": "ms", "ratio": 1.5, "low": 1.25, "high": 2.0}
    modes = {"eager": figures, "CUDA graph": {"error": "RuntimeError: a | b"}}
    parts["layers"] = [([{"row": "LSTM", "modes": modes}], 0)]
    parts["memory"] = [([{"row": "H 4", "ours": 3.0, "ratio": 2.0, "unit": "MB"}], 0)]
    parts["tests"] = [
        ([{"row": "a", "note": "passed"}, {"row": "b", "note": "skipped: no"}, {"row": "c", "error": "E"}], 0)
    ]
    gpu.measure(str(tmp_path / "new"), **CPU)
    assert all(result(tmp_path / "new", part)["status"] == DONE for part in PARTS)
    table = (tmp_path / "new/table.md").read_text(encoding="utf-8")
    assert table.startswith("Dry run")
    for line in (
        "| environment | environment |  |  |  | well |",
        "| tests | all |  |  |  | 1 passed, 1 failed, 1 skipped |",
        "| tests | c |  |  |  | error: E |",
        "| layers | LSTM, eager | 1,234 ms | 0.0123 ms | 1.50 (1.25 to 2.00) |  |",
        "| layers | LSTM, CUDA graph |  |  |  | error: RuntimeError: a \\| b |",
        "| memory | H 4 | 3 MB |  | 2.00 |  |",
    ):
        assert f"\n{line}\n" in table
    assert len({line.count(" | ") for line in table.replace("\\|", "").splitlines()[2:] if "---" not in line}) == 1


def test_a_part_that_is_done_is_left_out_and_another_goes_on(
    parts: dict[str, list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts["updates"] = [([{"row": "first", "note": "1"}], gpu_rows.UNFINISHED), ([], gpu_rows.UNFINISHED)]
    gpu.measure(str(tmp_path), **CPU)
    assert result(tmp_path, "updates")["status"] == UNFINISHED
    assert "updates: unfinished, 1 rows, 0 with errors; run the command again to go on" in capsys.readouterr().out
    assert "| updates |  |  |  |  | unfinished |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    parts["layers"] = [([{"row": "must not run"}], 1)]
    gpu.measure(str(tmp_path), **CPU)
    assert [row["row"] for row in result(tmp_path, "updates")["rows"]] == ["first", "updates"]
    assert result(tmp_path, "updates")["status"] == DONE and len(parts["layers"]) == 1
    assert "layers: done before" in capsys.readouterr().out


def test_a_process_that_crashes_is_followed_by_another_while_it_gets_further(
    parts: dict[str, list[Any]], tmp_path: Path
) -> None:
    begun = {"row": "b", "error": STOPPED}
    parts["layers"] = [([{"row": "a"}, begun], -11), ([{"row": "c"}], RESTART), ([{"row": "d"}], 0)]
    parts["memory"] = [([begun], -9), ([], -9), ([{"row": "never"}], 0)]
    parts["large"] = [([], 1)]
    gpu.measure(str(tmp_path), **CPU)
    assert [row["row"] for row in result(tmp_path, "layers")["rows"]] == list("abcd")
    assert result(tmp_path, "layers")["status"] == DONE
    assert result(tmp_path, "memory")["status"] == UNFINISHED and result(tmp_path, "memory")["rows"] == [begun]
    failed = result(tmp_path, "large")
    assert (failed["status"], failed["message"]) == (FAILED, "large ended with 1")
    assert "| large |  |  |  |  | failed large ended with 1 |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_parts_for_which_no_time_is_left_are_not_begun(
    parts: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "LIMIT", 0)
    gpu.measure(str(tmp_path), device="cuda", dry_run=False)
    assert capsys.readouterr().out.count("not begun, as nine minutes are over; run the command again") == len(PARTS)
    assert "| memory |  |  |  |  | not begun |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}', '{"device": "cuda", "dry_run": false, "rows": []}'])
def test_results_of_another_kind_are_refused(parts: dict[str, list[Any]], tmp_path: Path, content: str) -> None:
    (tmp_path / "layers.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="layers.json .*give another --out"):
        gpu.measure(str(tmp_path), **CPU)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--device", "cpu"], "--device is cpu: give --dry_run, too, or --device cuda"),
        ([], "--device is cuda: there is no GPU here; leave it out"),
        (["--device", "cpu", "--dry_run"], "Not a directory"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    tmp_path: Path, given: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu", "--out", str(tmp_path / "file/folder"), *given])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line or told == "Not a directory" and str(tmp_path) in line


def test_a_process_ends_when_its_time_is_up(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        assert gpu.run_process("layers", tmp_path, CPU, 0.01, log) != 0


def test_a_process_that_hangs_in_a_row_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that sleeps stands for it."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: start(sleeper, **options))
    monkeypatch.setattr(gpu, "STALL", 0.2)
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        began = time.monotonic()
        assert gpu.run_process("layers", tmp_path, {"device": "cuda", "dry_run": False}, 500, log) != 0
    assert time.monotonic() - began < 120


def report(when: str = "call", outcome: str = "passed", **more: Any) -> Any:
    outcomes = {"failed": outcome == "failed", "skipped": outcome == "skipped", "when": when, "duration": 0.5}
    return SimpleNamespace(nodeid="tests/x.py::test", **outcomes | more)


def test_each_test_is_a_row(tmp_path: Path) -> None:
    recorder = gpu_parts.Recorder(tmp_path / "tests.jsonl", NEVER)
    crash = SimpleNamespace(reprcrash=SimpleNamespace(message="AssertionError: 1 != 2\nmore"))
    for reports, expected in (
        ([report("setup"), report(), report("teardown")], {"note": "passed"}),
        ([report("setup", "skipped", longrepr=("file", 1, "Skipped: there is no GPU"))], None),
        ([report("setup"), report("call", "failed", longrepr=crash)], {"error": "AssertionError: 1 != 2"}),
        (
            [report("setup"), report(), report("teardown", "failed", longrepr=crash)],
            {"error": "AssertionError: 1 != 2"},
        ),
    ):
        recorder.pytest_runtest_logstart("tests/x.py::test")
        for one in reports:
            recorder.pytest_runtest_logreport(one)
        (row,) = gpu_rows.read(recorder.path).values()
        expected = expected or {"note": "skipped: Skipped: there is no GPU"}
        assert {name: row.get(name) for name in expected} == expected
    broken = SimpleNamespace(nodeid="tests/y.py", failed=True, longrepr=None, longreprtext="a\nImportError: no")
    recorder.pytest_collectreport(broken)
    assert gpu_rows.read(recorder.path)["tests/y.py"]["error"] == "ImportError: no"
    items = [SimpleNamespace(nodeid="tests/x.py::test"), SimpleNamespace(nodeid="tests/x.py::other")]
    recorder.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == ["tests/x.py::other"]


@pytest.mark.parametrize("answers", [True, False])
def test_tests_stop_when_time_is_up_or_the_gpu_answers_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(gpu_rows, "gpu_answers", lambda: answers)
    recorder = gpu_parts.Recorder(tmp_path / "tests.jsonl", PAST)
    with pytest.raises(pytest.exit.Exception) as stopped:
        if answers:
            recorder.pytest_runtest_logstart("tests/x.py::test")
        recorder.pytest_runtest_logreport(report("call", "failed", longrepr=None, longreprtext="E"))
    assert stopped.value.returncode == (gpu_rows.UNFINISHED if answers else RESTART)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[gpu_parts.Context]:
    yield gpu_parts.Context(tmp_path, "cpu", True, NEVER)


def test_there_are_24_named_rows_of_layers_and_a_cpu_measures_those_that_it_can(context: gpu_parts.Context) -> None:
    todo = gpu_parts.layers(context)
    assert len(todo) == 24
    lstm, triton = todo["LSTM 1×256, B 64, T 128, bfloat16, fused"](), todo["GRU 1×512, B 128, T 128, tf32, triton"]()
    assert lstm["modes"]["eager"]["ratio"] > 0 and lstm["modes"]["CUDA graph"]["note"] == triton["note"]
    assert triton["note"] == "not measured: it needs a GPU"


def test_a_mode_that_fails_leaves_the_other(context: gpu_parts.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = gpu_parts.in_mode

    def in_mode(mode: str, *sides: Any) -> Any:
        return failing() if mode == "CUDA graph" else measured(mode, *sides)

    monkeypatch.setattr(gpu_parts, "in_mode", in_mode)
    row = gpu_parts.layers(context)["RNN 1×256, B 64, T 128, tf32, fused"]()
    assert row["modes"]["CUDA graph"] == {"error": "RuntimeError: out of memory"} and "ratio" in row["modes"]["eager"]


def test_the_environment_is_recorded(context: gpu_parts.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts.shutil, "which", lambda name: None)
    rows = {name: function()["note"] for name, function in gpu_parts.environment(context).items()}
    assert rows["torch"] and rows["numpy"] and rows["driver"] == "nvidia-smi is not installed"
    assert gpu_parts.package("no-such-package")["note"] == "not installed"


def test_the_corpus_has_its_size_and_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    gpu_parts.write_corpus(path, 100_001)
    text = path.read_text(encoding="ascii")
    assert len(text) == 100_000 and 1000 < text.count("\n") and 15_000 < text.count(" ") < 35_000
    before = path.stat().st_mtime_ns
    gpu_parts.write_corpus(path, 100_001)
    assert path.stat().st_mtime_ns == before
    gpu_parts.write_corpus(path, 80)
    assert path.stat().st_size == 80


def test_figures_are_the_last_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,tokens_per_second,val_bpc\n49,1000,\n99,3000,\n100,,1.25\n", encoding="utf-8")
    found = gpu_parts.figures(path)
    assert found == {"ours": 3000.0, "unit": "tokens/s", "note": "100 updates, 1.25 bits held out"}
    assert gpu_parts.figures(None) == {}


@pytest.mark.slow
def test_the_whole_command_runs_on_a_cpu_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "gpu", "--out", str(tmp_path), "--device", "cpu", "--dry_run"]
    for _ in range(2):
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=3000)
        assert run.returncode == 0, run.stderr
    assert run.stdout.count("done before") == len(PARTS)
    rows = {part: result(tmp_path, part)["rows"] for part in PARTS}
    assert all(result(tmp_path, part)["status"] == DONE for part in PARTS)
    assert len(rows["layers"]) == 24 and len(rows["updates"]) == 4 and len(rows["tests"]) > 10
    without_proc = {"memory"} if sys.platform != "linux" else set()
    assert not [row for part in PARTS for row in rows[part] if "error" in row and part not in without_proc]
    assert rows["large"][-1]["ours"] > 0 and not (tmp_path / "large").exists()
