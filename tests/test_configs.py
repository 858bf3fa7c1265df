"""Every configuration: a reason for its keys, its model at full size, two updates and a validation by train.py."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from datamodules.corpora import MEMORISE
from models.classifier import Classifier
from models.language_model import LanguageModel
from models.sampling import generate

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
KEYS = {"seed_everything", "trainer", "model", "data"}
# Of what Lightning's command line calls in jsonargparse.
quietly = pytest.mark.filterwarnings("ignore::DeprecationWarning")
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)


def read(config: Path) -> dict[str, Any]:
    return yaml.safe_load(config.read_text(encoding="utf-8"))


def classifies(options: dict[str, Any]) -> bool:
    return options.get("task") == "classify"


@pytest.fixture
def precision() -> Iterator[None]:
    """Configurations choose the precision of matrix products, which is torch's for all that comes after."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def run(config: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The trainer after `python train.py --config …`, in this process."""
    trainers: list[Any] = []
    make = train.TrainingRun.instantiate_trainer
    monkeypatch.setattr(train.TrainingRun, "instantiate_trainer", lambda run: trainers.append(make(run)) or trainers[0])
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", str(config), *arguments])
    train.main()
    return trainers[0]


@every_config
def test_each_key_has_its_reason(config: Path) -> None:
    assert read(config).keys() in (KEYS, KEYS | {"task"})
    lines = [line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("  ")]
    assert sum("#" in line for line in lines) >= len(lines) // 2
    assert config.read_text(encoding="utf-8").startswith("# ")


@every_config
def test_the_model_can_be_made_at_its_full_size(config: Path) -> None:
    options = read(config)
    sizes = {"vocab_size": 300, **({"num_classes": 3} if classifies(options) else {})}
    model = (Classifier if classifies(options) else LanguageModel)(**sizes, **options["model"])
    assert sum(parameter.numel() for parameter in model.parameters()) > 10_000


@quietly
@every_config
def test_two_updates_and_a_validation(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: None
) -> None:
    """With few units, on little text: all else is what the configuration says."""
    options = read(config)
    options["trainer"] |= {"fast_dev_run": 2, "accelerator": "cpu", "default_root_dir": str(tmp_path)}
    options["model"]["hidden_size"] = 12
    if options["model"].get("embedding_size"):
        options["model"]["embedding_size"] = 12
    options["data"] |= {"path": str(tmp_path / "text.tsv"), "batch_size": 3}
    if classifies(options):
        options["data"] |= {"text_column": "text", "label_column": "label"}
        lines = ["text\tlabel", *["it is good\tgood", "it is not good\tbad", "it is\tnone"] * 20]
    else:
        options["data"]["window"] = min(options["data"]["window"], 25)
        lines = ["def double(number):", "    return 2 * number", ""] * 60
    (tmp_path / "text.tsv").write_text("\n".join(lines), encoding="utf-8")
    small = tmp_path / config.name
    small.write_text(yaml.safe_dump(options), encoding="utf-8")

    trainer = run(small, monkeypatch)
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["val_loss"])


@pytest.mark.slow
@quietly
def test_a_hundred_epochs_are_enough_to_learn_a_text_by_heart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: None
) -> None:
    given = ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    trainer = run(CONFIGS[0].parent / "memorise.yaml", monkeypatch, *given)
    assert trainer.current_epoch == 100 and trainer.callback_metrics["val_loss"] <= 0.030  # nats per character
    text, tokenizer = MEMORISE, trainer.datamodule.tokenizer
    begin = torch.tensor(tokenizer.encode(text[0]), dtype=torch.int64)
    assert text[0] + "".join(tokenizer.decode(generate(trainer.model, begin, 558, temperature=0))) == text
