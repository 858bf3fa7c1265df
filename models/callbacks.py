"""What happens beside the training: its speed, samples, suggestions, and a checkpoint to go on from."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar

from models.checkpoints import classifier, language_model, read_checkpoint
from models.classifier import report
from models.sampling import generate, harmless
from models.suggestions import Accuracy, Suggester, accuracy

SAMPLE_SEED = 0


class Throughput(pl.Callback):
    """Logs `tokens_per_second`: symbols trained on, over the time that training took, validation left out."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self.began = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_train_epoch_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds += now - self.began
        self.tokens += batch.symbols
        self.began = now
        if trainer.global_step % trainer.log_every_n_steps == 0:
            pl_module.log("tokens_per_second", self.tokens_per_second, prog_bar=True)


class Teller(pl.Callback):
    """Says on the terminal what is trained, how well it does after every validation, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # of the run

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            print(f"{trainer.datamodule}\n{parameters:,} parameters on {pl_module.device}; run in {self.folder}\n")

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.is_global_zero:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.tell(f"epoch {trainer.current_epoch + 1}, update {trainer.global_step:,}", metrics, trainer, pl_module)

    def summary(self, trainer: Any, best: ModelCheckpoint, tokens_per_second: float) -> str:
        """The last lines of a run: where its best model is, how good it is, how fast it was trained, what it does."""
        if not best.best_model_path:
            return f"no checkpoint was kept; {tokens_per_second:,.0f} tokens/s"
        assert best.best_model_score is not None  # as a best model was kept
        return (
            f"best checkpoint  {shortest(Path(best.best_model_path))}\n"
            f"held out         {self.loss(float(best.best_model_score))}\n"
            f"training speed   {tokens_per_second:,.0f} tokens/s\n"
            f"{self.proof(trainer.datamodule, read_checkpoint(best.best_model_path))}"
        )

    def tell(self, when: str, metrics: dict[str, float], trainer: Any, model: Any) -> None:
        raise NotImplementedError

    def loss(self, nats: float) -> str:
        raise NotImplementedError

    def proof(self, data: Any, checkpoint: dict[str, Any]) -> str:
        raise NotImplementedError


class Samples(Teller):
    """After every validation, writes to a file what the model generates, and its beginning to the terminal.

    The samples have a random generator of their own: how often they are drawn does not change the training.
    """

    def __init__(self, path: Path, length: int = 500, shown: int = 200, temperature: float = 0.8) -> None:
        super().__init__(path.parent)
        self.path, self.length, self.shown, self.temperature = path, length, shown, temperature

    def tell(self, when: str, metrics: dict[str, float], trainer: Any, model: Any) -> None:
        text = self.draw(trainer.datamodule.tokenizer, model)
        title = f"{when}: held out {self.loss(metrics['val_loss'])}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"=== {title} ===\n{text}\n\n")
        print(f"{title}\n{indented(text[: self.shown])}\n", flush=True)

    def draw(self, tokenizer: Any, model: Any) -> str:
        prompt = torch.tensor(tokenizer.encode("\n\n", "replace"), dtype=torch.int64)
        ids = generate(model, prompt, self.length, self.temperature, SAMPLE_SEED)
        return "".join(tokenizer.decode(ids))

    def loss(self, nats: float) -> str:
        return f"{nats:.4f} nats = {nats / math.log(2):.4f} bits per symbol"

    def proof(self, data: Any, checkpoint: dict[str, Any]) -> str:
        return f"it writes\n{indented(self.draw(data.tokenizer, language_model(checkpoint)))}"


class Verdicts(Teller):
    """How many texts a classifier gets right, and at the end which it takes for which."""

    def tell(self, when: str, metrics: dict[str, float], trainer: Any, model: Any) -> None:
        print(f"{when}: held out {self.loss(metrics['val_loss'])}, {metrics['val_accuracy']:.1%} right", flush=True)

    def loss(self, nats: float) -> str:
        return f"{nats:.4f} nats a text"

    def proof(self, data: Any, checkpoint: dict[str, Any]) -> str:
        parts = {"held out": data.val_batches, "test": data.test_batches}
        return report(classifier(checkpoint), {name: part for name, part in parts.items() if part}, data.labels)


class SuggestionAccuracy(pl.Callback):
    """At the end of training, how often the word that the held-out text goes on with is suggested: a table on the
    terminal, `suggested_top{k}_typed{n}` for the loggers, and a plot. Nothing where there is no text of words."""

    def __init__(self, path: Path, positions: int = 200) -> None:
        self.path, self.positions = path, positions

    def on_train_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        text = getattr(trainer.datamodule, "held_out_excerpt", "")
        if not text or not trainer.is_global_zero:
            return
        pl_module.eval()
        rows = accuracy(Suggester(pl_module, trainer.datamodule.tokenizer), text, self.positions)
        pl_module.train()
        if rows:
            for logger in trainer.loggers:
                shares = {f"suggested_top{k}_typed{row.typed}": share for row in rows for k, share in row.top.items()}
                logger.log_metrics(shares, trainer.global_step)
            print(f"{table(rows)}\n", flush=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            plot(rows, self.path)


def table(rows: list[Accuracy]) -> str:
    heads = "".join(f"  top {k}" for k in rows[0].top)
    lines = ["how often the next word of the held-out text is suggested", f"letters typed  words{heads}"]
    for row in rows:
        lines.append(f"{row.typed:13}{row.words:7}" + "".join(f"{share:7.1%}" for share in row.top.values()))
    return "\n".join(lines)


def plot(rows: list[Accuracy], path: Path) -> None:
    from matplotlib.figure import Figure  # a second, which no other command needs to wait

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of its cache
    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    for k in rows[0].top:
        axes.plot([row.typed for row in rows], [row.top[k] for row in rows], marker="o", label=f"top {k}")
    axes.set(xlabel="letters typed", ylabel="share of words suggested", ylim=(0, 1), xticks=[row.typed for row in rows])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


class ValidateAtTheEnd(pl.Callback):
    """Lightning validates after a stop that is asked for, as max_time does, but not at max_steps: this asks there."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True


class LastCheckpoint(pl.Callback):
    """Writes last.ckpt every so many updates and at the last one, always between two batches: a run that resumes there
    goes on with the next window, where one saved at the end of training would skip the rest of the epoch.
    """

    def __init__(self, path: Path, every_n_updates: int = 500) -> None:
        self.path, self.every_n_updates = path, every_n_updates

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.should_stop or trainer.is_last_batch or trainer.global_step % self.every_n_updates == 0:
            trainer.save_checkpoint(self.path)


def shortest(path: Path) -> Path:
    """The path as a user in this folder would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def indented(text: str) -> str:
    return "\n".join("    " + line for line in harmless(text).splitlines())


class Progress(RichProgressBar):
    """Lightning's progress bar, with what matters in few words."""

    NAMES = {"train_loss": "nats", "train_bpc": "bits", "tokens_per_second": "tokens/s"}

    def get_metrics(self, trainer: Any, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {
            short: f"{metrics[name]:,.{0 if short == 'tokens/s' else 3}f}"
            for name, short in self.NAMES.items()
            if name in metrics
        }
