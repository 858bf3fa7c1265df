"""Training as configs/lstm.yaml asks for it: against the same run with `nn.LSTM` inside, and against a plain loop over
the same model, data, optimizer and clipping.

Of Lightning there is what train.py has at every update: the loggers and the count of tokens, but no progress bar, which
depends on the terminal. Nobody validates or writes checkpoints. On a GPU our updates are CUDA graphs.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.nn.functional as F
import yaml
from torch import nn

from benchmarks.pairs import in_turn, now
from benchmarks.peers import with_torch_layers
from datamodules.text import TextDataModule
from models.callbacks import Throughput, loggers
from models.language_model import LanguageModel, detach
from models.training import OPTIMIZERS

CONFIG = Path(__file__).parents[1] / "configs/lstm.yaml"
PAIRS = 8
WARM_UP, UPDATES = 5, 50  # of a stretch: those before the clock starts, and the rest, of which one is logged


class Clock(pl.Callback):
    """When the updates that count began and ended. At others nobody waits for a GPU."""

    def __init__(self) -> None:
        self.read: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *of_the_update: Any) -> None:
        self.after(trainer.global_step)

    def after(self, update: int) -> None:
        if update in (WARM_UP, WARM_UP + UPDATES):
            self.read.append(now())

    @property
    def seconds(self) -> float:
        began, ended = self.read
        return ended - began


def rows(pairs: int, device: str) -> Iterator[dict[str, Any]]:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    data = TextDataModule(**config["data"])
    model = LanguageModel(data.vocab_size, **config["model"])
    clip = config["trainer"]["gradient_clip_val"]
    options = config["trainer"] | {"accelerator": "gpu" if device == "cuda" else device}
    name, tokens = f"configs/{CONFIG.name}", UPDATES * data.hparams["batch_size"] * data.hparams["window"]
    with tempfile.TemporaryDirectory() as folder:
        ours = partial(by_lightning, model, data, options, Path(folder) / "run/version_0")
        for theirs, against, goal in (
            (partial(ours.func, with_torch_layers(model), *ours.args[1:]), "the same with nn.LSTM", 1.4),
            (partial(by_a_loop, model, data, clip, device), "a loop without Lightning", 0.95),
        ):
            found = in_turn(ours, theirs, pairs).rates(tokens)
            yield {"run": name, "against": against, "unit": "tokens/s", **asdict(found), "goal": goal}


def by_lightning(
    model: LanguageModel, data: TextDataModule, options: dict[str, Any], folder: Path, *callbacks: pl.Callback
) -> float:
    """Seconds of a stretch of training."""
    clock = Clock()
    options = options | {"max_epochs": 1, "limit_train_batches": WARM_UP + UPDATES, "limit_val_batches": 0}
    options |= dict.fromkeys(("enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)
    trainer = pl.Trainer(**options, logger=loggers(folder, 0), callbacks=[Throughput(), clock, *callbacks])
    trainer.fit(model, data)
    return clock.seconds


def by_a_loop(model: LanguageModel, data: TextDataModule, clip: float, device: str) -> float:
    """Seconds of as many updates."""
    model.to(device)
    options, state, clock = model.hparams, None, Clock()
    optimizer = OPTIMIZERS[options["optimizer"]](
        model.parameters(), lr=options["learning_rate"], weight_decay=options["weight_decay"], fused=True
    )
    for update, (tokens, fresh) in enumerate(islice(data.train_streams, WARM_UP + UPDATES), start=1):
        tokens = tokens.to(device)
        logits, state = model(tokens[:-1], None if fresh else state)
        state = detach(state)
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        clock.after(update)
    return clock.seconds
