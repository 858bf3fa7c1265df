"""The classifier: what padding, pooling and weights do to it, what it reports, how it resumes, what it must reach."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from datamodules.labelled import LabelledDataModule, batch_of
from models.callbacks import LastCheckpoint
from models.checkpoints import classifier, language_model, read_checkpoint
from models.classifier import Classifier, Tally, report, tally
from models.language_model import LanguageModel

POOLINGS = ["additive", "dot"]


@pytest.fixture
def data(tmp_path: Path) -> LabelledDataModule:
    path = tmp_path / "table.tsv"
    rows = [f"{'so ' * (k % 5)}{('good', 'bad', 'red')[k % 3]} thing\t{'abc'[k % 3]}\n" for k in range(60)]
    path.write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    return LabelledDataModule(str(path), str(path), batch_size=7)


def model_for(data: LabelledDataModule, **options: Any) -> Classifier:
    pl.seed_everything(0)
    sizes = {"embedding_size": 4, "hidden_size": 5, "learning_rate": 0.02}
    return Classifier(data.vocab_size, data.num_classes, **{**sizes, **options})


def trainer_with(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", num_sanity_val_steps=0, callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())


def small(pooling: str = "additive", **options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(9, 3, embedding_size=4, hidden_size=5, pooling=pooling, **options).double()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_computes_its_docstring(pooling: str) -> None:
    for line in ("x_t = embedding[token_t]", "h_t = recurrent(x)_t", "pooled = Σ_t a_t h_t", "z = W pooled + b"):
        assert line in inspect.getdoc(Classifier)
    model, tokens = small(pooling), torch.tensor([[1], [4], [1], [8]])
    h, _ = model.recurrent(model.embedding.weight[tokens[:, 0]][:, None])
    _, a = model.attention(h)
    z = model.head.weight @ sum(a[t, 0] * h[t, 0] for t in range(4)) + model.head.bias
    logits, weights = model(tokens, torch.tensor([4]))
    assert torch.allclose(logits[0], z, rtol=0, atol=1e-14)  # values below 1, sums of ten: a few dozen ULPs at most
    assert torch.allclose(weights, a, rtol=0, atol=1e-14)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_lies_beyond_a_length_bears_on_nothing_to_the_bit(pooling: str) -> None:
    model, lengths = small(pooling), torch.tensor([5, 2, 1])
    tokens = torch.randint(1, 9, (5, 3))
    others = torch.where(torch.arange(5)[:, None] < lengths, tokens, 0)
    results = []
    for batch in (tokens, others):
        model.zero_grad()
        logits, weights = model(batch, lengths)
        F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        results.append([logits, weights, *(p.grad for p in model.parameters())])
    assert all((one == other).all() for one, other in zip(*results, strict=True))
    assert (results[0][1][torch.arange(5)[:, None] >= lengths] == 0).all()
    assert torch.allclose(results[0][1].sum(0), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_text_is_read_as_it_would_be_alone(pooling: str) -> None:
    model, texts = small(pooling), [torch.tensor([3, 1, 2]), torch.tensor([5]), torch.tensor([1, 2, 3, 4, 5, 6])]
    together, weights = model(*batch_of(texts, [0, 0, 0])[:2])
    for column, text in enumerate(texts):
        alone, own = model(text[:, None], torch.tensor([len(text)]))
        # values near 1; products of matrices of other shapes may be summed otherwise: a few dozen ULPs of 1.1e-16
        assert torch.allclose(together[column], alone[0], rtol=0, atol=1e-14)
        assert torch.allclose(weights[: len(text), column], own[:, 0], rtol=0, atol=1e-14)


def test_the_training_loss_weighs_classes_and_smooths_labels(data: LabelledDataModule) -> None:
    weights, smoothing, seen = [0.5, 1.0, 2.0], 0.1, Losses()
    model = model_for(data, class_weights=weights, label_smoothing=smoothing, learning_rate=0.0, optimizer="sgd")
    trainer_with(seen, max_epochs=1, limit_val_batches=0).fit(model, data)
    for position, loss in enumerate(seen.losses):
        tokens, lengths, labels = data.train_batches.at(position)
        nats = -model(tokens, lengths)[0].log_softmax(dim=-1)
        smooth = (1 - smoothing) * F.one_hot(labels, 3) + smoothing / 3
        weight = torch.tensor(weights)
        assert loss == pytest.approx(((nats * smooth * weight).sum() / weight[labels].sum()).item(), rel=1e-5)
    assert seen.losses


def test_word_dropout_reads_words_as_unknown_while_training_alone(data: LabelledDataModule) -> None:
    model = model_for(data, word_dropout=0.9)
    read: list[torch.Tensor] = []
    model.embedding.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    trainer_with(max_epochs=1, limit_train_batches=5, limit_val_batches=0).fit(model, data)
    assert 0.6 < torch.cat([tokens.flatten() for tokens in read]).eq(0).float().mean() < 1
    model.eval()
    tokens, lengths, _ = data.val_batches.at(8)
    model(tokens, lengths)
    assert (read[-1] == tokens).all()


def test_validation_sums_over_the_whole_held_out_part_and_leaves_training_alone(data: LabelledDataModule) -> None:
    often, never, model = Losses(), Losses(), model_for(data, class_weights=[0.1, 1.0, 5.0])
    trainer = trainer_with(often, max_epochs=2, val_check_interval=0.25)
    trainer.fit(model, data)
    fresh = LabelledDataModule(data.hparams["path"], data.hparams["path"], batch_size=7)
    again = model_for(data, class_weights=[0.1, 1.0, 5.0])
    trainer_with(never, max_epochs=2, limit_val_batches=0).fit(again, fresh)
    assert often.losses == never.losses
    trainer.validate(model, data, verbose=False)
    texts, labels = zip(*data.val_batches.examples, strict=True)
    model.eval()
    with torch.no_grad():
        logits, _ = model(*batch_of(list(texts), list(labels))[:2])
    truth = torch.tensor(labels)
    metrics = trainer.callback_metrics
    assert float(metrics["val_loss"]) == pytest.approx(F.cross_entropy(logits, truth).item(), rel=1e-5)
    assert float(metrics["val_accuracy"]) == pytest.approx((logits.argmax(1) == truth).float().mean().item())


def test_a_tally_counts_and_takes_the_mean_over_classes_that_occur() -> None:
    found, labels = Tally(4), torch.tensor([0, 0, 0, 1, 1, 2])
    for part, predicted in ((labels[:4], [0, 0, 1, 1]), (labels[4:], [1, 0])):
        found.add(F.one_hot(torch.tensor(predicted), 4).double(), part)
    assert found.counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert found.accuracy == 4 / 6
    precision, recall = (2 / 3, 2 / 3), (2 / 3, 1)
    both = [2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True)]
    assert found.f1 == pytest.approx((both[0] + both[1] + 0) / 3)
    right, wrong = (-F.log_softmax(torch.tensor([1.0, 0, 0, 0]), dim=0))[:2].tolist()
    assert found.loss == pytest.approx((4 * right + 2 * wrong) / 6)


def test_a_tally_computes_its_docstring() -> None:
    found = Tally(3)
    found.counts = torch.tensor([[7, 2, 1], [0, 3, 4], [5, 1, 6]])
    said = re.findall(r"^(\w+) = (.+)$", inspect.getdoc(Tally) or "", re.MULTILINE)
    scope = {"trace": np.trace, "diagonal": np.diagonal, "mean": np.mean, "sum": np.sum, "counts": found.counts.numpy()}
    scope |= {"rows": lambda counts: counts.sum(1), "columns": lambda counts: counts.sum(0)}
    assert [name for name, _ in said] == ["accuracy", "f1"]
    for name, expression in said:
        assert getattr(found, name) == pytest.approx(eval(expression, scope), rel=1e-12)


@pytest.mark.parametrize("updates", [4, 12])  # in the first epoch of 9, and in the second
def test_a_run_resumed_in_mid_epoch_goes_on_with_the_same_bits(
    data: LabelledDataModule, tmp_path: Path, updates: int
) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.should_stop = trainer.global_step == updates

    def fresh() -> LabelledDataModule:
        return LabelledDataModule(data.hparams["path"], data.hparams["path"], batch_size=7)

    whole, resumed, last = Losses(), Losses(), tmp_path / "last.ckpt"
    model = model_for(data, schedule="cosine")
    trainer_with(whole, max_epochs=3).fit(model, data)
    trainer_with(Stop(), LastCheckpoint(last, 1000), max_epochs=3).fit(model_for(data, schedule="cosine"), fresh())
    again = model_for(data, schedule="cosine")
    trainer_with(resumed, max_epochs=3).fit(again, fresh(), ckpt_path=last, weights_only=True)
    assert len(whole.losses) == 27 and resumed.losses == whole.losses[updates:]
    assert all((again.state_dict()[name] == value).all() for name, value in model.state_dict().items())


def test_a_checkpoint_is_numbers_and_primitives_and_each_kind_of_model_is_told_apart(
    data: LabelledDataModule, tmp_path: Path
) -> None:
    path, model = tmp_path / "last.ckpt", model_for(data, class_weights=[1.0, 2.0, 3.0], pooling="dot")
    trainer_with(LastCheckpoint(path), max_epochs=1).fit(model, data)
    checkpoint = read_checkpoint(str(path))
    again, model = classifier(checkpoint), model.eval()
    tokens, lengths, _ = data.val_batches.at(0)
    assert not again.training and (again(tokens, lengths)[0] == model(tokens, lengths)[0]).all()
    assert checkpoint["LabelledDataModule"]["encoder"]["labels"] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="a classifier's, which writes nothing: use predict.py classify"):
        language_model(checkpoint)
    other = LanguageModel(5, embedding_size=2, hidden_size=2)
    with pytest.raises(ValueError, match="a language model's, which knows no classes: use predict.py generate"):
        classifier({"hyper_parameters": dict(other.hparams), "state_dict": other.state_dict()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"hidden_size": 0}, "--model.hidden_size is 0"),
        ({"class_weights": [1.0]}, "--model.class_weights has 1 for 3 classes"),
        ({"word_dropout": 1.0}, "--model.word_dropout is 1.0"),
        ({"label_smoothing": -0.1}, "--model.label_smoothing is -0.1"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"pooling": "max"}, "'max' does not exist: choose one of additive, dot"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(**{"vocab_size": 9, "num_classes": 3, **options})


def test_a_text_without_symbols_is_refused() -> None:
    with pytest.raises(ValueError, match="lengths are"):
        small()(torch.zeros(3, 2, dtype=torch.int64), torch.tensor([3, 0]))


def test_a_report_has_a_row_for_each_true_class(data: LabelledDataModule) -> None:
    model = model_for(data).eval()
    lines = report(model, {"held out": data.val_batches, "test": data.val_batches}, data.labels).splitlines()
    found = tally(model, data.val_batches)
    assert (
        lines[0]
        == f"held out         accuracy {found.accuracy:.4f}, macro F1 {found.f1:.4f}, {found.loss:.4f} nats a text"
    )
    assert lines[1].split() == ["true", "as", "a", "as", "b", "as", "c"] and len(lines) == 10
    assert [[int(cell) for cell in line.split()[1:]] for line in lines[2:5]] == found.counts.tolist()


@pytest.mark.slow
def test_the_shipped_configuration_tells_contrasts_apart() -> None:
    import yaml

    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "sentiment.yaml").read_text(encoding="utf-8"))
    pl.seed_everything(config["seed_everything"])
    data = LabelledDataModule(**config["data"])
    model = Classifier(data.vocab_size, data.num_classes, **config["model"])
    trainer_options = {k: v for k, v in config["trainer"].items() if k != "accelerator"}
    trainer_with(**trainer_options).fit(model, data)
    assert tally(model.eval(), data.val_batches).accuracy >= 0.95
    texts = ["It is a good product", "It is a good product but it stopped working in few days", "It is a product"]
    logits, _ = model(*batch_of([data.encoder.encode(text) for text in texts], [0] * 3)[:2])
    assert [data.labels[k] for k in logits.argmax(dim=-1)] == ["positive", "negative", "neutral"]
