"""How far gradients reach back, of a text, and along a training run that notices nothing of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from datamodules.text import TextDataModule
from models.callbacks import LastCheckpoint
from models.insight import flow as module
from models.insight.flow import BINS, GradientFlow, by_steps_back, flow, over_epochs, window_starts
from models.insight.recording import record
from models.language_model import LanguageModel

V, H = 7, 6
KINDS: list[dict[str, Any]] = [{"cell": "lstm", "num_layers": 2}, {"cell": "gru", "attention_span": 5}, {"cell": "rnn"}]


def test_histograms_count_every_entry_once() -> None:
    gradients = torch.zeros(2, 3, 4)
    gradients[1, 0] = torch.tensor([1e-3, -1.1e-3, 0.0, 1e30])
    gradients[1, 1] = 1e-30
    found = by_steps_back(gradients)
    last, first = found["histogram"]
    place = {size: int(np.searchsorted(BINS.numpy(), np.log10(size), "right")) - 1 for size in (0.99e-3, 1.1e-3)}
    assert found["zeros"].tolist() == [5, 12] and not first.any()
    assert last[place[0.99e-3]] + last[place[1.1e-3]] == 2 and last[0] == 4 and last[-1] == 1 and last.sum() == 7
    sequences = gradients[1].double().square().sum(-1)
    # a square root of the same sum: an ULP, of which approx allows many
    assert found["norm"].tolist() == [pytest.approx(float(sequences.mean().sqrt())), 0]


@pytest.mark.parametrize("T, K, remembered", [(10, 3, 0), (9, 3, 0), (9, 3, 4), (9, 9, 20), (5, 3, 20)])
def test_windows_cover_a_text_from_its_end(T: int, K: int, remembered: int) -> None:
    starts = window_starts(T, K, remembered).tolist()
    assert starts[-1] == T - K and all(b - a == K for a, b in zip(starts, starts[1:], strict=False))
    assert starts[0] >= min(remembered, T - K) and (starts[0] < K + remembered or starts == [T - K])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_flow_of_a_text_is_that_of_its_windows(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins with the state that the text before it leaves, and knows no gradient beyond its first step."""
    monkeypatch.setattr(module, "STEPS", 4)
    torch.manual_seed(0)
    model, tokens = LanguageModel(V, hidden_size=H, **kind).double().eval(), torch.randint(V, (18,))
    with torch.no_grad():
        found = flow(model, tokens, record(model, tokens[:, None]))
    starts = range(1, 17, 4) if "attention_span" not in kind else (5, 9, 13)
    squares = {loss: np.zeros(4) for loss in ("last", "every")}
    for start in starts:
        with torch.no_grad():
            _, state = model(tokens[:start, None])
        recording = record(model, tokens[start : start + 4, None], state)
        nats = F.cross_entropy(model.head(recording.hidden)[:, 0], tokens[start + 1 : start + 5], reduction="none")
        for loss, value in (("last", nats[-1]), ("every", nats.mean())):
            states = [after.h for after in recording.layers[0].states]
            gradients = torch.autograd.grad(value, states, retain_graph=True)
            squares[loss] += [float(d.square().sum()) for d in reversed(gradients)]
    for loss, sums in squares.items():
        layer = found["losses"][loss]["layers"][0]
        np.testing.assert_allclose(
            layer["h"]["norm"], np.sqrt(sums / len(starts)), rtol=1e-12
        )  # hundreds of roundings of 1e-16
        assert (layer["h"]["histogram"].sum(1) + layer["h"]["zeros"] == len(starts) * H).all()
        assert (layer["c"] is None) == (kind["cell"] != "lstm") and layer["jacobian"][0] == pytest.approx(1)
        assert layer["jacobian"].shape == (4,) and found["losses"][loss]["back"].tolist() == [0, 1, 2, 3]


def test_the_jacobian_is_bounded_as_the_slopes_and_the_weights_say() -> None:
    """‖∂h_T/∂h_t‖₂ ≤ (σ_max · slope)^k; and of a linear net it is the norm of W_hh's power."""
    model = LanguageModel(V, "rnn", hidden_size=H, activation="identity").double().eval()
    weight, tokens = model.recurrent.cells[0].weight_hh.detach(), torch.randint(V, (9,))
    with torch.no_grad():
        found = flow(model, tokens, record(model, tokens[:, None]))
    powers = [torch.linalg.matrix_norm(torch.linalg.matrix_power(weight, k), 2) for k in range(8)]
    np.testing.assert_allclose(found["losses"]["last"]["layers"][0]["jacobian"], powers, rtol=1e-12)  # as many
    assert found["mean_slope"] == [1]
    assert found["largest_singular_value"] == [
        pytest.approx(float(powers[1]), rel=1e-5)
    ]  # some dozen roundings of 6e-8
    assert found["spectral_radius"] == [pytest.approx(float(torch.linalg.eigvals(weight).abs().max()), rel=1e-5)]


@pytest.mark.parametrize("cell, block", [("gru", 2), ("lstm", 2)])
def test_the_block_that_proposes_is_what_is_measured(cell: Any, block: int) -> None:
    model, tokens = LanguageModel(V, cell, hidden_size=H).eval(), torch.randint(V, (9,))
    model.recurrent.cells[0].weight_hh.data.zero_()
    model.recurrent.cells[0].weight_hh.data[block * H : (block + 1) * H] = 3 * torch.eye(H)
    with torch.no_grad():
        found = flow(model, tokens, record(model, tokens[:, None]))
    assert found["spectral_radius"] == [3] == found["largest_singular_value"] and 0 < found["mean_slope"][0] < 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 12, encoding="utf-8")
    return path


def data_of(path: Path) -> TextDataModule:
    return TextDataModule(str(path), batch_size=3, window=8, val_streams=2)


def trained(path: Path, *callbacks: pl.Callback, fit: dict[str, Any] | None = None, **options: Any) -> Any:
    data = data_of(path)
    torch.manual_seed(0)
    model = LanguageModel(data.vocab_size, "lstm", 4, H, 2, dropout=0.3, weight_dropout=0.2, learning_rate=0.05)
    options = {"max_epochs": 2, "gradient_clip_val": 0.3, "logger": False} | options
    trainer = pl.Trainer(
        accelerator="cpu", num_sanity_val_steps=0, callbacks=list(callbacks), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(model, data, weights_only=True, **fit or {})
    return model, trainer


@pytest.mark.parametrize("every", [0, 3])
def test_a_run_gives_the_same_bits_whether_it_is_watched_or_not(path: Path, tmp_path: Path, every: int) -> None:
    plain, _ = trained(path)
    watched, _ = trained(path, GradientFlow(tmp_path / "flow.npz", every))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.state, watched.state, strict=True))


class Norms(pl.Callback):
    """Of all gradients together, before they are clipped."""

    def __init__(self, order: float = 2.0) -> None:
        self.order, self.found = order, list[float]()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = torch.cat([p.grad.flatten() for p in pl_module.parameters()])
        self.found.append(float(torch.linalg.vector_norm(gradients, self.order)))


@pytest.mark.parametrize("algorithm, limit", [("norm", 0.3), ("value", 0.15), ("norm", None)])
def test_a_run_leaves_a_row_an_epoch_and_one_of_its_end(
    path: Path, tmp_path: Path, algorithm: str, limit: float | None
) -> None:
    written, norms = tmp_path / "run" / "flow.npz", Norms(np.inf if algorithm == "value" else 2.0)
    _, trainer = trained(path, GradientFlow(written), norms, gradient_clip_val=limit, gradient_clip_algorithm=algorithm)
    found = over_epochs(dict(np.load(written)))
    updates = trainer.global_step // 2
    acted = np.array(norms.found) > (limit or np.inf)
    assert found["epochs"].tolist() == [0, 1, 2] and updates > 2
    assert found["clipped"].tolist() == [0, acted[:updates].mean(), acted[updates:].mean()]
    assert limit is None or 0 < acted.mean() < 1
    assert len(found["layers"]) == 2
    for layer in found["layers"]:
        assert layer["h"].shape == (3, 8) == layer["c"].shape and layer["histograms"].dtype == np.uint16
        assert (layer["histograms"].sum(-1) == 3 * H).all()
        assert all(layer[name].shape == (3,) for name in ("spectral_radius", "mean_slope", "mean_forget"))
        assert ((layer["mean_forget"] > 0) & (layer["mean_forget"] < 1)).all()


def test_the_first_row_is_the_flow_of_the_first_window(path: Path, tmp_path: Path) -> None:
    trained(path, GradientFlow(tmp_path / "flow.npz"), max_epochs=1)
    torch.manual_seed(0)
    data = data_of(path)
    model = LanguageModel(data.vocab_size, "lstm", 4, H, 2).eval()
    tokens, _ = next(iter(data.train_dataloader()))
    recording = record(model, tokens[:-1])
    loss = F.cross_entropy(model.head(recording.hidden).flatten(0, 1), tokens[1:].flatten())
    for place, layer in enumerate(over_epochs(dict(np.load(tmp_path / "flow.npz")))["layers"]):
        for part in ("h", "c"):
            states = [getattr(after, part) for after in recording.layers[place].states]
            # the loss is a mean over the batch's three sequences; each counts by itself here
            d = 3 * torch.stack(torch.autograd.grad(loss, states, retain_graph=True)).flip(0)
            expected = d.square().sum(-1).mean(-1).sqrt().log10()
            np.testing.assert_allclose(
                layer[part][0], expected.detach(), rtol=0, atol=1e-5
            )  # some dozen roundings of 6e-8


def test_a_window_that_begins_a_text_anew_is_read_from_nothing(path: Path, tmp_path: Path) -> None:
    """The one of the end is the last full window of the second epoch; that of the second epoch begins the text."""
    watch, states = GradientFlow(tmp_path / "flow.npz"), list[Any]()
    plain = watch.take

    def take(trainer: Any, model: Any) -> None:
        states.append((watch.latest[1], model.state))
        plain(trainer, model)

    watch.take = take  # type: ignore[method-assign]
    trained(path, watch)
    (first, _), (second, carried), (last, _) = states
    assert first is None and second is None and carried is not None and last is not None


def test_rows_are_of_every_so_many_updates(path: Path, tmp_path: Path) -> None:
    _, trainer = trained(path, GradientFlow(tmp_path / "flow.npz", 3), max_steps=8, accumulate_grad_batches=2)
    per_epoch = -(-trainer.num_training_batches // 2)
    epochs = over_epochs(dict(np.load(tmp_path / "flow.npz")))["epochs"]
    np.testing.assert_allclose(epochs * per_epoch, [0, 3, 6, 8])
    with pytest.raises(ValueError, match="every_n_updates is -1: give a number of updates, or 0 for once an epoch"):
        GradientFlow(tmp_path / "flow.npz", -1)


def test_a_run_that_goes_on_keeps_its_rows(path: Path, tmp_path: Path) -> None:
    whole, parts, last = tmp_path / "whole.npz", tmp_path / "parts.npz", tmp_path / "last.ckpt"
    trained(path, GradientFlow(whole, 2), max_steps=9, max_epochs=-1)
    trained(path, LastCheckpoint(last), GradientFlow(parts, 2), max_steps=4, max_epochs=-1)
    fit = {"ckpt_path": last}
    trained(path, LastCheckpoint(last), GradientFlow(parts, 2), max_steps=9, max_epochs=-1, fit=fit)
    one, other = np.load(whole), np.load(parts)
    assert one.files == other.files and len(one["epochs"]) == 6
    for name in one.files:
        assert (one[name] == other[name]).all(), name


def test_tensorboard_gets_histograms(path: Path, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "tb", "")
    trained(path, GradientFlow(tmp_path / "flow.npz"), max_epochs=1, logger=logger)
    events = EventAccumulator(logger.log_dir, {"histograms": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["histograms"] if tag.startswith("flow.layers.1.c/")]
    assert tags == [f"flow.layers.1.c/{back:02} back" for back in (0, 1, 2, 4)]
    assert len(events.Histograms(tags[0])) == 2  # of the beginning and the end


def test_the_file_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, row = tmp_path / "flow.npz", {"epochs": 0.0, "clipped": 0.0}
    module.write(path, [row])

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            module.write(path, [row, row])
    assert np.load(path)["epochs"].tolist() == [0]
    module.write(path, [row, row])
    assert np.load(path)["epochs"].tolist() == [0, 0] and [of.name for of in tmp_path.iterdir()] == ["flow.npz"]
