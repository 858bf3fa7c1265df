"""The Lightning module: what it carries from window to window, what it reports, how it schedules and resumes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from datamodules.text import TextDataModule
from models.callbacks import LastCheckpoint
from models.language_model import LanguageModel
from models.training import OPTIMIZERS


@pytest.fixture
def data(tmp_path: Path) -> TextDataModule:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    return TextDataModule(str(path), batch_size=3, window=8, val_streams=2)


def model_for(data: TextDataModule, **options: Any) -> LanguageModel:
    pl.seed_everything(0)
    return LanguageModel(data.vocab_size, **{"embedding_size": 4, "hidden_size": 6, "learning_rate": 0.01, **options})


def trainer_with(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    plain = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(accelerator="cpu", num_sanity_val_steps=0, callbacks=list(callbacks), **{**plain, **options})


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_state_is_carried_from_window_to_window_and_gradients_are_not(data: TextDataModule) -> None:
    """Without updates, the losses of the windows are those of one long pass over the streams."""
    model, seen = model_for(data, optimizer="sgd", learning_rate=0.0), Losses()
    trainer_with(seen, max_epochs=2, limit_val_batches=0).fit(model, data)
    streams = data.train_streams
    whole = torch.cat(
        [streams.at(k).tokens[:-1] for k in range(len(streams))] + [streams.at(len(streams) - 1).tokens[-1:]]
    )
    logits, _ = model(whole[:-1])
    nats = F.cross_entropy(logits.flatten(0, 1), whole[1:].flatten(), reduction="none")
    by_window = [window.mean().item() for window in nats.split(8 * 3)]  # the last one is short
    assert len(seen.losses) == 2 * len(streams)
    np.testing.assert_allclose(seen.losses, by_window * 2, rtol=1e-6)  # float32, sums of 24 terms
    assert not any(part.requires_grad for part in model.state)


def test_validation_is_one_pass_with_a_state_of_its_own_and_leaves_training_alone(data: TextDataModule) -> None:
    model, seen = model_for(data), Losses()
    trainer = trainer_with(seen, max_epochs=2, val_check_interval=0.25)
    trainer.fit(model, data)
    again, without = model_for(data), Losses()
    trainer_with(without, max_epochs=2, limit_val_batches=0).fit(again, data)
    assert seen.losses == without.losses, "how often one validates must not change the training"
    held_out = TextDataModule(data.hparams["path"], val_streams=1, batch_size=3, window=8)
    trainer.validate(model, held_out, verbose=False)
    ids = torch.from_numpy(held_out._encoded[2].astype(np.int64))[:, None]
    with torch.no_grad():
        logits, _ = model(ids[:-1])
    expected = F.cross_entropy(logits[:, 0].double(), ids[1:, 0]).item()
    assert trainer.callback_metrics["val_loss"].item() == pytest.approx(expected, rel=1e-6)
    assert trainer.callback_metrics["val_bpc"].item() == pytest.approx(expected / math.log(2), rel=1e-6)


def test_padding_beyond_the_held_out_part_counts_for_nothing(data: TextDataModule) -> None:
    """Each stream by hand, from a cold start, without padding: the mean over all symbols is what is reported."""
    model, trainer = model_for(data), trainer_with()
    for streams in (2, 5, 7):
        held_out = TextDataModule(data.hparams["path"], val_streams=streams, window=8, batch_size=3)
        trainer.validate(model, held_out, verbose=False)
        ids = torch.from_numpy(held_out._encoded[2].astype(np.int64))
        length = -(-(len(ids) - 1) // streams)
        nats = 0.0
        for begin in range(0, len(ids) - 1, length):
            stream = ids[begin : begin + length + 1, None]
            logits, _ = model(stream[:-1])
            nats += F.cross_entropy(logits[:, 0], stream[1:, 0], reduction="sum").item()
        assert trainer.callback_metrics["val_loss"].item() == pytest.approx(nats / (len(ids) - 1), rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"cell": "rnn"}, {"cell": "gru"}, {"cell": "lstm", "attention_span": 12, "dropout": 0.2, "num_layers": 2}],
    ids=str,
)
def test_a_run_resumed_in_mid_epoch_goes_on_with_the_same_bits(
    data: TextDataModule, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, model = Losses(), model_for(data, schedule="cosine", **options)
    trainer_with(whole, LastCheckpoint(tmp_path / "last.ckpt", every_n_updates=95), max_epochs=2).fit(model, data)
    late, stopped, resumed = tmp_path / "stopped.ckpt", Losses(), Losses()
    trainer_with(stopped, LastCheckpoint(late, 70), max_epochs=2).fit(
        model_for(data, schedule="cosine", **options), data
    )

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.should_stop = trainer.global_step == 80  # in the second epoch

    fresh = TextDataModule(data.hparams["path"], batch_size=3, window=8, val_streams=2)
    interrupted = LastCheckpoint(late, 1000)
    trainer_with(Stop(), interrupted, max_epochs=2).fit(model_for(data, schedule="cosine", **options), fresh)
    again = model_for(data, schedule="cosine", **options)
    fresh = TextDataModule(data.hparams["path"], batch_size=3, window=8, val_streams=2)
    trainer_with(resumed, max_epochs=2).fit(again, fresh, ckpt_path=late, weights_only=True)
    assert len(whole.losses) > 100 and resumed.losses == whole.losses[80:]
    for name, value in model.state_dict().items():
        assert (again.state_dict()[name] == value).all(), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(data: TextDataModule, optimizer: str) -> None:
    rate = {"sgd": 2.0, "adagrad": 0.1}.get(optimizer, 0.02)
    seen = Losses()
    model = model_for(data, optimizer=optimizer, learning_rate=rate, hidden_size=16)
    trainer_with(seen, max_epochs=2, limit_val_batches=0, gradient_clip_val=1.0).fit(model, data)
    assert np.mean(seen.losses[-5:]) < 0.8 * seen.losses[0]


def test_the_schedules(data: TextDataModule) -> None:
    def rates(epochs: int = 4, **options: Any) -> list[float]:
        seen = Losses()
        model = model_for(data, learning_rate=1.0, optimizer="sgd", **options)
        trainer_with(seen, max_epochs=epochs, limit_val_batches=1, limit_train_batches=5, gradient_clip_val=1e-9).fit(
            model, data
        )
        return seen.rates

    # The rate of update k is set at the end of update k − 1, so that the list starts with that of update 1.
    assert rates() == [1.0] * 20
    by_epoch = rates(schedule="exponential", decay_rate=0.5, decay_steps=2)
    assert by_epoch == pytest.approx([0.5 ** (update // 5 / 2) for update in range(1, 21)])
    assert rates(schedule="cosine") == pytest.approx(
        [(1 + math.cos(math.pi * update / 20)) / 2 for update in range(1, 21)]
    )
    assert rates(warmup_steps=3)[:4] == pytest.approx([0.5, 0.75, 1.0, 1.0])
    plateau = rates(epochs=6, schedule="plateau", decay_rate=0.1, decay_steps=1)
    assert plateau[-1] < plateau[0] == 1.0


def test_the_forget_bias_is_added_once_to_the_forget_gate() -> None:
    pl.seed_everything(0)
    plain = LanguageModel(5, hidden_size=4)
    pl.seed_everything(0)
    biased = LanguageModel(5, hidden_size=4, forget_bias=2.0)
    difference = biased.recurrent.cells[0].bias_ih - plain.recurrent.cells[0].bias_ih
    assert torch.allclose(difference.view(4, 4), torch.tensor([0.0, 2.0, 0.0, 0.0])[:, None], atol=1e-6)  # float32 sums
    before = biased.recurrent.cells[0].bias_ih.clone()
    biased(torch.zeros(3, 1, dtype=torch.int64))
    assert (biased.recurrent.cells[0].bias_ih == before).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "--model.hidden_size is 0"),
        ({"num_layers": -1}, "--model.num_layers is -1"),
        ({"schedule": "plateau", "warmup_steps": 3}, "--model.warmup_steps cannot be combined"),
        ({"embedding_size": 0}, "--model.embedding_size is 0"),
        ({"learning_rate": -1.0}, "--model.learning_rate is -1.0"),
        ({"learning_rate": math.nan}, "--model.learning_rate is nan"),
        ({"decay_rate": 0.0}, "--model.decay_rate is 0.0"),
        ({"bidirectional": True}, "--model.bidirectional: a layer that reads backwards has seen the symbol"),
        ({"tied": True, "embedding_size": 3}, "--model.tied needs .* --model.embedding_size 256"),
        ({"attention_span": -1}, "--model.attention_span is -1"),
        ({"weight_dropout": 1.0}, "--model.weight_dropout is 1.0"),
        ({"dropout": 1.0}, "dropout is 1.0: it must be at least 0 and less than 1"),
        ({"cell": "elman"}, "'elman' does not exist: choose one of rnn, gru, lstm"),
    ],
)
def test_each_mistake_is_named_with_the_way_out(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModel(5, **options)


@pytest.mark.parametrize("span", [1, 4, 100])
def test_attention_reads_windows_as_it_would_read_the_whole(span: int) -> None:
    """By steps, by windows, in one piece: what is remembered is what a step looks back at."""
    model, tokens = LanguageModel(7, "gru", 3, 4, attention_span=span).double(), torch.randint(0, 7, (12, 2))
    whole, last = model(tokens)
    for size in (1, 5):
        state, pieces = None, []
        for window in tokens.split(size):
            logits, state = model(window, state)
            pieces.append(logits)
        # values near 1; a matrix product of another shape may be summed in another order: a few ULPs of 1.1e-16
        assert torch.allclose(torch.cat(pieces), whole, rtol=0, atol=1e-14)
        assert state.memory.shape == last.memory.shape == (min(span - 1, 12), 2, 4)


def test_tied_weights_are_one_parameter() -> None:
    model = LanguageModel(7, "rnn", 4, 4, tied=True)
    assert model.head.weight is model.embedding.weight
    assert "head.weight" not in dict(model.named_parameters())


def test_dropout_acts_in_training_alone_and_on_every_layers_output() -> None:
    model, tokens = LanguageModel(7, "gru", 3, 4, 2, dropout=0.5), torch.randint(0, 7, (6, 2))
    masks: list[torch.Tensor] = []
    draw = model.recurrent.dropout.mask
    model.recurrent.dropout.mask = lambda x: masks.append(draw(x)) or masks[-1]
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    assert [mask.shape for mask in masks] == [(6, 2, 4)] * 4
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0]) and len(masks) == 4


def test_weights_are_dropped_once_a_window_in_training_alone(data: TextDataModule) -> None:
    """The gradient of a dropped weight is 0, of a kept one that of the larger weight, times what made it larger."""
    model = model_for(data, weight_dropout=0.5, num_layers=2)
    tokens, _ = data.train_streams.at(0)
    torch.manual_seed(3)
    dropped = model.dropped_weights()
    assert list(dropped) == ["recurrent.cells.0.weight_hh", "recurrent.cells.1.weight_hh"]
    masks = {name: value / model.get_parameter(name) for name, value in dropped.items()}
    torch.manual_seed(3)
    model.logs_now = lambda: False
    model.training_step((tokens, True), 0).backward()
    plain = model_for(data, num_layers=2)
    plain.load_state_dict(model.state_dict() | {name: value.detach() for name, value in dropped.items()})
    plain.logs_now = lambda: False
    plain.training_step((tokens, True), 0).backward()
    for name, mask in masks.items():
        share = (mask == 0).float().mean()
        assert 0.3 < share < 0.7
        expected = plain.get_parameter(name).grad * mask
        # float32: the mask is a quotient, known to an ULP of 1.2e-7, and the product rounds once more
        assert torch.allclose(model.get_parameter(name).grad, expected, rtol=1e-6, atol=0)
    model.eval()
    before = model.get_parameter("recurrent.cells.0.weight_hh").clone()
    assert torch.equal(model(tokens)[0], model(tokens)[0])
    assert torch.equal(model.get_parameter("recurrent.cells.0.weight_hh"), before)


@pytest.mark.parametrize("backend", ["autograd", "fused", "auto"])
def test_in_mixed_precision_gradients_are_those_of_float32_to_a_few_parts_in_a_hundred(backend: str) -> None:
    """One symbol is read thousands of times: a sum of so many in bfloat16, of 8 bits, would lose a third."""
    torch.manual_seed(0)
    model = LanguageModel(10, "lstm", 32, 64, backend=backend)
    tokens = torch.randint(0, 10, (101, 64)) * (torch.rand(101, 64) < 0.7)

    def gradients(mixed: bool) -> dict[str, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss, _ = model.read(tokens, None)
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    exact, found = gradients(mixed=False), gradients(mixed=True)
    for name in exact:  # a product of two rounded factors is off by 2⁻⁸: room for eight that all go one way
        assert (found[name] - exact[name]).norm() <= 0.03 * exact[name].norm(), name
