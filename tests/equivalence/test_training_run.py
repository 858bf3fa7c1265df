"""Tier E6: a NumPy training loop and a Lightning run, side by side for 100 updates on real text with carried state."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from bptt.layers import Recurrent
from bptt.networks import LanguageModel as LanguageModelTwin
from bptt.optimizers import SGD, AdaGrad, Optimizer, train
from bptt.verify.cases import Arrays
from datamodules.text import TextDataModule
from models.language_model import LanguageModel

UPDATES = 100
RULES = {"adagrad": (AdaGrad, 0.05), "sgd": (SGD, 1.0)}  # with the learning rate at which each learns
ULP = 2.0**-52
CLIPS = {
    "clip-by-value": ({"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"}, {"clip_value": 0.02}),
    "clip-by-norm": ({"gradient_clip_val": 0.25, "gradient_clip_algorithm": "norm"}, {"clip_norm": 0.25}),
}


class Recorder(pl.Callback):
    """Keeps every loss and the parameters after every update."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.parameters: list[Arrays] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())
        self.parameters.append(numpy_parameters(pl_module))


def numpy_parameters(module: torch.nn.Module) -> Arrays:
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def numpy_run(
    cell: str, optimizer: Optimizer, start: Arrays, data: TextDataModule, clip: dict[str, float]
) -> Iterator[tuple[float, Arrays]]:
    parameters, streams = copy.deepcopy(start), copy.deepcopy(data.train_streams)
    streams.position = 0
    windows = (streams.at(k % len(streams)).tokens.numpy() for k in range(UPDATES))
    twin = LanguageModelTwin(Recurrent(cell))
    for loss in train(twin, parameters, ((w[:-1], w[1:]) for w in windows), optimizer, **clip):
        yield float(loss), copy.deepcopy(parameters)


@cache
def text() -> TextDataModule:
    """Encoded once for all tests."""
    data = TextDataModule(batch_size=4, window=12, val_fraction=0.001)
    assert len(data.train_streams) > UPDATES
    return data


def distance(a: Arrays, b: Arrays) -> float:
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_two_runs_stay_together_for_a_hundred_updates(cell: str, clip: str, optimizer: str, backend: str) -> None:
    """How far may they part? Each update of either run adds rounding errors of a few ULPs, and training itself
    amplifies what was added before. A third run shows by how much: it is the NumPy run, started with every parameter
    moved by one ULP of the largest. The two runs, which make an error of that size at each of 100 updates, may be a
    hundred times as far apart as the largest distance of the third run from the first, and no more.
    """
    lightning_clip, numpy_clip = CLIPS[clip]
    rule, rate = RULES[optimizer]
    pl.seed_everything(1)
    data = copy.deepcopy(text())
    model = LanguageModel(
        data.vocab_size, cell, 6, 10, optimizer=optimizer, learning_rate=rate, backend=backend
    ).double()
    start, recorder = numpy_parameters(model), Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=UPDATES, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[recorder], **lightning_clip,
    )  # fmt: skip
    trainer.fit(model, data)
    ulp = ULP * max(float(np.abs(value).max()) for value in start.values())
    moved = {name: value + ulp for name, value in start.items()}
    by_hand = numpy_run(cell, rule(rate), start, data, numpy_clip)
    stretched = numpy_run(cell, rule(rate), moved, data, numpy_clip)
    farthest = 0.0
    for update, ((loss, parameters), (_, third)) in enumerate(zip(by_hand, stretched, strict=True)):
        farthest = max(farthest, distance(parameters, third))
        allowed = UPDATES * farthest
        assert distance(parameters, recorder.parameters[update]) <= allowed, update
        assert abs(loss - recorder.losses[update]) <= allowed * loss_slope(parameters), update
        assert allowed < 1e-8, (
            "the bound must stay far below what a wrong gradient moves: rate · limit is 1e-3 and more"
        )
    assert loss < 0.9 * np.log(data.vocab_size), "nothing was learnt, so nothing was tried"


def loss_slope(parameters: Arrays) -> float:
    """∂L/∂w ≤ 1 for a bias of the head; a bound for all parameters moved together is their number's square root."""
    return float(np.sqrt(sum(value.size for value in parameters.values())))
