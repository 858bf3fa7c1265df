"""The scripts as users call them: what a run leaves behind, what it prints, and one line for each mistake."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def run(script: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def small(config: Path, text: Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run(
        "train.py", "--config", str(config), "--data.path", str(text), "--trainer.default_root_dir", str(root),
        "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4", "--trainer.accelerator", "cpu",
        "--data.batch_size", "4", "--data.window", "8", "--model.hidden_size", "12",
        "--trainer.log_every_n_steps", "2", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("def double(number):\n    return 2 * number\n\n" * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small run in it."""
    root = tmp_path_factory.mktemp("runs")
    done = small(ROOT / "configs" / "lstm.yaml", text, root)
    assert done.returncode == 0, done.stderr
    (root / "printed.txt").write_text(done.stdout, encoding="utf-8")
    assert done.stderr == ""
    return root


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> str:
    return str(root / "lstm" / "version_0" / "checkpoints" / "best.ckpt")


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in csv.DictReader(file)]


def test_a_run_leaves_what_it_should(root: Path) -> None:
    folder = root / "lstm" / "version_0"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "samples.txt", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (folder / "samples.txt").read_text(encoding="utf-8").count("=== epoch") == 2
    header = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    wanted = {"train_loss", "train_bpc", "val_loss", "val_bpc", "tokens_per_second", "learning_rate", "grad_norm"}
    assert wanted <= set(header)


def test_the_last_lines_tell_the_result(root: Path, checkpoint: str) -> None:
    printed = (root / "printed.txt").read_text(encoding="utf-8")
    assert f"best checkpoint  {checkpoint}" in printed
    assert re.search(r"held out         \d\.\d{4} nats = \d\.\d{4} bits per symbol\n", printed)
    assert re.search(r"training speed   [\d,]+ tokens/s\nit writes\n    ", printed)


def test_the_same_seed_gives_the_same_bits(root: Path, text: Path) -> None:
    assert small(ROOT / "configs" / "lstm.yaml", text, root).returncode == 0
    assert metrics(root / "lstm" / "version_1") == metrics(root / "lstm" / "version_0")


def test_a_run_that_stops_at_a_number_of_updates_validates_too(text: Path, tmp_path: Path) -> None:
    done = small(ROOT / "configs" / "gru.yaml", text, tmp_path, "--trainer.max_steps", "3")
    assert done.returncode == 0 and done.stderr == ""
    assert "update 3: held out" in done.stdout and "best checkpoint" in done.stdout
    plain = ["--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"]
    done = small(ROOT / "configs" / "rnn.yaml", text, tmp_path, *plain)
    assert done.returncode == 0 and "no checkpoint was kept" in done.stdout


def test_without_a_config_there_is_nothing_to_train(tmp_path: Path) -> None:
    done = run("train.py", cwd=tmp_path)
    assert done.returncode == 2 and "give --config configs/lstm.yaml" in done.stderr and not any(tmp_path.iterdir())


def test_a_run_goes_on_from_its_last_checkpoint(root: Path, text: Path) -> None:
    last = str(root / "lstm" / "version_0" / "checkpoints" / "last.ckpt")
    more = ["--trainer.max_epochs", "3", "--ckpt_path", last]
    done = small(ROOT / "configs" / "lstm.yaml", text, root / "more", *more)
    assert done.returncode == 0, done.stderr
    assert "epoch 3, update 12" in done.stdout


def test_a_checkpoint_is_numbers_and_primitives_alone_and_moves_anywhere(checkpoint: str, tmp_path: Path) -> None:
    torch.load(checkpoint, weights_only=True)
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(Path(checkpoint).read_bytes())
    arguments = ["generate", "--checkpoint", str(moved), "--prompt", "def ", "--length", "50", "--seed", "3"]
    first, second = (run("predict.py", *arguments, cwd=tmp_path) for _ in range(2))
    assert first.returncode == 0 and first.stderr == ""
    assert first.stdout.startswith("def ") and len(first.stdout) == len("def ") + 50 + len("\n")
    assert first.stdout == second.stdout
    other = run("predict.py", *arguments[:-1], "4", cwd=tmp_path)
    assert other.stdout != first.stdout


def test_prompts_with_symbols_that_the_model_never_saw(checkpoint: str) -> None:
    def write(*more: str) -> subprocess.CompletedProcess[str]:
        return run("predict.py", "generate", "--checkpoint", checkpoint, "--prompt", "dZé", "--length", "5", *more)

    refused = write()
    assert refused.returncode == 2 and "the vocabulary has no 'Z', 'é': --unknown skip or replace" in refused.stderr
    for choice in ("skip", "replace"):
        done = write("--unknown", choice)
        assert done.returncode == 0 and done.stdout.startswith("dZé")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs_and_explains_each_key(config: Path, text: Path, tmp_path: Path) -> None:
    done = small(config, text, tmp_path, "--trainer.fast_dev_run", "2")
    assert done.returncode == 0, done.stderr
    lines = [line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("  ")]
    assert yaml.safe_load(config.read_text(encoding="utf-8")).keys() == {"seed_everything", "trainer", "model", "data"}
    assert sum("#" in line for line in lines) >= len(lines) // 2


def test_help_is_enough(root: Path) -> None:
    for script, wanted in (
        ("train.py", ["--data.path", "--model.cell", "--ckpt_path", "forget gate"]),
        ("predict.py", ["generate"]),
    ):
        done = run(script, "--help")
        assert done.returncode == 0
        assert all(word in done.stdout for word in wanted)


MISTAKES = {
    "no file": (["--data.path", "{tmp}/none.txt"], "none.txt: no such file; give a text file with --data.path"),
    "folder": (["--data.path", "{tmp}"], "is a folder"),
    "empty": (["--data.path", "{tmp}/empty.txt"], "is empty"),
    "not utf-8": (["--data.path", "{tmp}/latin.txt"], "byte 3 is not utf-8; name its encoding with --data.encoding"),
    "too short": (["--data.path", "{tmp}/short.txt"], "would fit"),
    "unknown key": (["--model.hiden_size", "3"], "hiden_size"),
    "wrong value": (["--model.cell", "elman"], "elman"),
    "no checkpoint": (["--ckpt_path", "{tmp}/none.ckpt"], "none.ckpt: no such checkpoint"),
    "not a checkpoint": (["--ckpt_path", "{tmp}/short.txt"], "short.txt: is not a checkpoint of train.py"),
    "no config": (["--config", "{tmp}/none.yaml"], "none.yaml"),
    "bad config": (["--config", "{tmp}/bad.yaml"], "learning_speed"),
    "bad time": (["--trainer.max_time", "5"], "DD:HH:MM:SS"),
    "other vocabulary": (
        ["--data.path", "{tmp}/other.txt", "--ckpt_path", "{ckpt}"],
        "trained with another vocabulary",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_half_written(mistake: str, tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "other.txt").write_text("xyz" * 9000)
    (tmp_path / "bad.yaml").write_text("model:\n  learning_speed: 3\n")
    arguments, message = MISTAKES[mistake]
    given = [argument.format(tmp=tmp_path, ckpt=checkpoint) for argument in arguments]
    config = [] if "--config" in given else ["--config", str(ROOT / "configs" / "lstm.yaml")]
    done = run("train.py", *config, "--trainer.default_root_dir", str(tmp_path / "runs"), *given)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--checkpoint", "none.ckpt"], "none.ckpt: no such checkpoint"),
        (["generate", "--checkpoint", "README.md"], "README.md: is not a checkpoint of train.py"),
        (["generate", "--checkpoint", "models"], "models"),
        (["generate", "--checkpoint", "{ckpt}", "--temperature", "-1"], "neither may be negative"),
        (["generate", "--checkpoint", "{ckpt}", "--prompt", ""], "the prompt is empty"),
        (["generate"], "checkpoint"),
        (["translate"], "translate"),
        ([], "generate"),
    ],
)
def test_a_mistake_in_predicting_is_one_line(arguments: list[str], message: str, checkpoint: str) -> None:
    done = run("predict.py", *(argument.format(ckpt=checkpoint) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
