"""One small checkpoint of each format that was released: it loads, generates and resumes, or is refused in one line.

`python -m tests.test_checkpoint_formats FOLDER` writes one of the current format into an empty folder.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import flips
from models.checkpoint_files import read_checkpoint
from models.checkpoint_schema import FORMAT
from models.checkpoints import language_model
from tests.scripts import ROOT, run

CHECKPOINTS = Path(__file__).parent / "checkpoints"
TEXT = "0123456789 9876543210\n" * 30
CONFIG = {
    "seed_everything": 1,
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 4, "enable_progress_bar": False},
    "model": {"embedding_size": 2, "hidden_size": 3, "schedule": "cosine"},
    "data": {"path": "text.txt", "batch_size": 3, "window": 4},
}


def write(folder: Path) -> Path:
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    subprocess.run([sys.executable, str(ROOT / "train.py"), "--config", "tiny.yaml"], cwd=folder, check=True)
    return folder / "runs/tiny/version_0/checkpoints/last.ckpt"


def test_each_format_has_its_checkpoint() -> None:
    assert {path.name for path in CHECKPOINTS.iterdir()} == {f"format-{number}.ckpt" for number in range(1, FORMAT + 1)}


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_a_released_format_loads_generates_and_resumes(number: int, tmp_path: Path) -> None:
    content = (CHECKPOINTS / f"format-{number}.ckpt").read_bytes()
    last = tmp_path / "runs/tiny/version_0/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(content)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    checkpoint = read_checkpoint(last)
    assert checkpoint["format"] == number and checkpoint["global_step"] == 4
    assert language_model(checkpoint).hparams["hidden_size"] == 3
    done = run("predict.py", "generate", "--checkpoint", str(last), "--prompt", "0123", "--length", "5")
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout) == len("0123") + 5 + len("\n")
    again = ["--data.path", "text.txt", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"]
    done = run("train.py", "--ckpt_path", str(last), *again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(last)["global_step"] == 8 and not (tmp_path / "runs/tiny/version_1").exists()


def test_a_later_format_is_refused_in_one_line(tmp_path: Path) -> None:
    content: dict[str, Any] = torch.load(CHECKPOINTS / "format-1.ckpt", weights_only=True)
    path = tmp_path / "later.ckpt"
    torch.save(content | {"format": 99}, path)
    for script in (
        ["train.py", "--ckpt_path"],
        ["predict.py", "generate", "--checkpoint"],
        ["explore.py", "--checkpoint"],
    ):
        done = run(*script, str(path), cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        assert f"{path}: is not a checkpoint of train.py: its format is 99, and this version" in done.stderr


def test_a_checkpoint_without_what_a_run_needs_is_one_line(tmp_path: Path) -> None:
    content: dict[str, Any] = torch.load(CHECKPOINTS / "format-1.ckpt", weights_only=True)
    path = tmp_path / "less.ckpt"
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    again = ["--data.path", "text.txt", "--trainer.accelerator", "cpu"]
    for name in ("loops", "optimizer_states", "random_states", "recurrent_state", "epoch"):
        torch.save({key: value for key, value in content.items() if key != name}, path)
        done = run("train.py", "--ckpt_path", str(path), *again, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert f"less.ckpt: no run can go on from it, as it has no {name}" in done.stderr


def test_a_checkpoint_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    content: dict[str, Any] = torch.load(CHECKPOINTS / "format-1.ckpt", weights_only=True)
    del content["TextDataModule"]
    torch.save(content, tmp_path / "less.ckpt")
    for command in ("predict.py generate --checkpoint", "predict.py suggest a --checkpoint", "explore.py --checkpoint"):
        done = run(*command.split(), "less.ckpt", cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        assert "the checkpoint has no tokenizer" in done.stderr


def test_no_flipped_bit_changes_what_is_loaded(tmp_path: Path) -> None:
    outcomes = Counter(flips.outcomes(CHECKPOINTS / "format-1.ckpt", 60, tmp_path))
    assert outcomes[flips.CHANGED] == 0 and outcomes[flips.REFUSED] > 10, outcomes


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
