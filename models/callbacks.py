"""What happens beside the training: its speed, a sample after every validation, and a checkpoint to go on from."""

import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar

from models.checkpoints import language_model, read_checkpoint
from models.sampling import generate

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
        self.tokens += batch.tokens[1:].numel()
        self.began = now
        if trainer.global_step % trainer.log_every_n_steps == 0:
            pl_module.log("tokens_per_second", self.tokens_per_second, prog_bar=True)


class Samples(pl.Callback):
    """After every validation, writes to a file what the model generates, and its beginning to the terminal.

    The samples have a random generator of their own: how often they are drawn does not change the training.
    """

    def __init__(self, path: Path, length: int = 500, shown: int = 200, temperature: float = 0.8) -> None:
        self.path, self.length, self.shown, self.temperature = path, length, shown, temperature

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            print(f"{trainer.datamodule}\n{parameters:,} parameters on {pl_module.device}; run in {self.path.parent}\n")

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        text = self.draw(trainer.datamodule.tokenizer, pl_module)
        nats, bits = (float(trainer.callback_metrics[name]) for name in ("val_loss", "val_bpc"))
        title = (
            f"epoch {trainer.current_epoch + 1}, update {trainer.global_step:,}: "
            f"held out {nats:.4f} nats = {bits:.4f} bits per symbol"
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"=== {title} ===\n{text}\n\n")
        print(f"{title}\n{indented(text[: self.shown])}\n", flush=True)

    def draw(self, tokenizer: Any, model: Any) -> str:
        prompt = torch.tensor(tokenizer.encode("\n\n", "replace"), dtype=torch.int64)
        ids = generate(model, prompt, self.length, self.temperature, SAMPLE_SEED)
        return "".join(tokenizer.decode(ids))

    def summary(self, trainer: Any, best: ModelCheckpoint, tokens_per_second: float) -> str:
        """The last lines of a run: where its best model is, how good it is, how fast it was trained, what it writes."""
        if not best.best_model_path:
            return f"no checkpoint was kept; {tokens_per_second:,.0f} tokens/s"
        assert best.best_model_score is not None  # as a best model was kept
        nats = float(best.best_model_score)
        text = self.draw(trainer.datamodule.tokenizer, language_model(read_checkpoint(best.best_model_path)))
        return (
            f"best checkpoint  {shortest(Path(best.best_model_path))}\n"
            f"held out         {nats:.4f} nats = {nats / math.log(2):.4f} bits per symbol\n"
            f"training speed   {tokens_per_second:,.0f} tokens/s\n"
            f"it writes\n{indented(text)}"
        )


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
    return "\n".join("    " + line for line in text.splitlines())


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
