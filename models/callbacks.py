"""What happens beside the training: its speed, samples, suggestions, and a checkpoint to go on from."""

import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import TensorBoardLogger

from complete_files import complete_file, put_in_place
from models.checkpoints import classifier, language_model, read_checkpoint
from models.classifier import report
from models.guard import check_held_out
from models.metrics_file import Metrics
from models.run_folder import shortest, unlock
from models.run_length import advice, run_length
from models.sampling import generate, harmless, opening
from models.suggestions import Accuracy, Suggester, accuracy

SAMPLE_SEED = 0
RECENT_SECONDS = 1.0  # work that may be lost when a validation is interrupted


class Throughput(pl.Callback):
    """Logs `tokens_per_second`: symbols trained on, by all processes, over the time that training took, validation left
    out; and `peak_memory_mb`, 10⁶ bytes: of the GPU the most that tensors had, else of the process."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self.began = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()  # a run that goes on in the middle of an epoch starts none

    def on_train_epoch_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds += now - self.began
        self.tokens += batch.symbols * trainer.world_size
        self.began = now
        if trainer.global_step % trainer.log_every_n_steps == 0:
            pl_module.log("tokens_per_second", self.tokens_per_second, prog_bar=True)
            if (peak := peak_memory_mb(pl_module.device)) is not None:
                pl_module.log("peak_memory_mb", peak)


def peak_memory_mb(device: torch.device) -> float | None:
    """None where the system does not count the memory of a process as POSIX does, as on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in what getrusage counts
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class Teller(pl.Callback):
    """Says on the terminal what is trained, how well it does after every validation, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # of the run

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            parameters = sum(parameter.numel() for parameter in pl_module.parameters())
            model = f"{parameters:,} parameters on {pl_module.device}, {run_length(trainer)}; run in {self.folder}"
            lines = [str(trainer.datamodule), model, *filter(None, [advice(trainer)])]
            print(harmless("\n".join(lines) + "\n"))

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not trainer.sanity_checking:
            check_held_out(pl_module, metrics["val_loss"])
        if not trainer.sanity_checking and trainer.is_global_zero:
            self.tell(f"epoch {trainer.current_epoch + 1}, update {trainer.global_step:,}", metrics, trainer, pl_module)

    def conclude(self, trainer: Any, best: ModelCheckpoint, tokens_per_second: float) -> None:
        """Prints where the best model of a run is, how good it is, how fast it was trained, and what it does.

        Raises OSError if its checkpoint cannot be read.
        """
        if not trainer.is_global_zero:
            return
        if not best.best_model_path:
            print(harmless(f"{last_alone(trainer)}\ntraining speed   {tokens_per_second:,.0f} tokens/s"))
            return
        assert best.best_model_score is not None  # as a best model was kept
        path = shortest(Path(best.best_model_path))
        figures = (
            f"best checkpoint  {path}\n"
            f"held out         {self.loss(float(best.best_model_score))}\n"
            f"training speed   {tokens_per_second:,.0f} tokens/s"
        )
        print(harmless(figures))
        try:
            proof = self.proof(trainer.datamodule, read_checkpoint(best.best_model_path))
        except (OSError, ValueError) as error:
            raise OSError(
                f"the best checkpoint cannot be read: {error}; last.ckpt beside it has the weights of the end"
            ) from None
        print(harmless(proof))

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
        self.size: int | None = None  # bytes of the file when the checkpoint was written that this run continues from

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.path.stat().st_size if self.path.exists() else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.size = state_dict["size"]

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Samples of later validations come again."""
        if trainer.is_global_zero and self.size is not None and self.path.exists():
            os.truncate(self.path, min(self.size, self.path.stat().st_size))

    def tell(self, when: str, metrics: dict[str, float], trainer: Any, model: Any) -> None:
        text = self.draw(trainer.datamodule.tokenizer, model)
        title = f"{when}: held out {self.loss(metrics['val_loss'])}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open(
            "a", encoding="utf-8", errors="surrogateescape"
        ) as file:  # at level byte, bytes as they are
            file.write(f"=== {title} ===\n{text}\n\n")
        print(f"{title}\n{indented(text[: self.shown])}\n", flush=True)

    def draw(self, tokenizer: Any, model: Any) -> str:
        prompt = torch.tensor(tokenizer.encode(opening(tokenizer, "\n\n"), "replace"), dtype=torch.int64)
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
    terminal, `suggested_top{k}_typed{n}` for the loggers, and a plot. Nothing where there is no text of words.

    It takes a while, and comes after last.ckpt is written. A run that was killed meanwhile makes up for it when it is
    continued, although there is nothing left to train.
    """

    def __init__(self, path: Path, positions: int = 200) -> None:
        self.path, self.positions = path, positions
        self.trained = False

    def on_train_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.trained = True
        if trainer.is_global_zero:
            self.measure(trainer, pl_module, logged=False)

    def on_fit_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if self.trained or not trainer.is_global_zero:
            return
        files = [logger for logger in trainer.loggers if isinstance(logger, Metrics)]
        logged = all(logger.has("suggested_", trainer.global_step - 1) for logger in files)
        if trainer.global_step and not (logged and self.path.exists()):
            self.measure(trainer, pl_module, logged)

    def measure(self, trainer: Any, pl_module: pl.LightningModule, logged: bool) -> None:
        text = getattr(trainer.datamodule, "held_out_excerpt", "")
        if not text:
            return
        pl_module.eval()
        rows = accuracy(Suggester(pl_module, trainer.datamodule.tokenizer), text, self.positions)
        pl_module.train()
        if not rows:
            return
        shares = {f"suggested_top{k}_typed{row.typed}": share for row in rows for k, share in row.top.items()}
        for logger in [] if logged else trainer.loggers:
            logger.log_metrics(shares, trainer.global_step - 1)  # as what is logged of the last update
            logger.save()
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
    with complete_file(path) as file:
        figure.savefig(file, dpi=150, format="png")


class ValidateAtTheEnd(pl.Callback):
    """Lightning validates after a stop that is asked for, as max_time does, but not at max_steps, nor at the end of a
    last epoch that check_val_every_n_epoch or val_check_interval leaves out: this asks there."""

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Who watches the time comes first."""
        trainer.callbacks.sort(key=lambda callback: not isinstance(callback, Timer))

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ends = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if trainer.global_step == trainer.max_steps or ends and not validates(trainer):
            trainer.should_stop = True
        if trainer.should_stop:
            trainer.check_val_every_n_epoch = 1


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt, of the lowest `val_loss`. A run that goes on in its folder remembers how good it was; elsewhere, and
    wherever that folder has moved, Lightning's own would forget it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "checkpoints", "best", monitor="val_loss", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        path = str(Path(str(self.dirpath)) / "best.ckpt")
        if state_dict["best_model_score"] is not None and Path(path).exists():
            here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
            super().load_state_dict(state_dict | here | {"best_k_models": {path: state_dict["best_model_score"]}})


class LastCheckpoint(pl.Callback):
    """Writes last.ckpt every so many updates and at the end of training; after SIGTERM or Ctrl-C, and then stops.

    All but the last one are of a moment between two batches that no validation, end of an epoch or accumulation of
    gradients parts: a run that goes on there does nothing twice and leaves nothing out. The file gets its name before
    the next batch, when Lightning has written what was logged of the one before.

    A validation may take long, and nothing can be saved within it that a run could go on from exactly. So last.ckpt is
    also written before the last batch before a validation, if the one before is older than `RECENT_SECONDS`; a signal
    then ends the validation after its current batch, and only that one update is made again.
    """

    def __init__(
        self,
        path: Path,
        every_n_updates: int = 500,
        config: dict[str, Any] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        if every_n_updates < 1:
            raise ValueError(f"--save_every is {every_n_updates}: it must be at least 1")
        self.path, self.every_n_updates, self.config, self.flags = path, every_n_updates, config, flags
        self.beside = path.with_name(path.name + ".next")
        self.updates = 0  # that the last one has
        self.saved_at = -math.inf  # seconds
        self.signal = 0  # that asks to stop
        self.written = self.stopping = self.ended = False

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        """All processes write to the folder that the first one has created."""
        self.path = trainer.strategy.broadcast(self.path)
        self.beside = self.path.with_name(self.path.name + ".next")

    def teardown(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        unlock(self.path.parent.parent)

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Lightning restores the handlers of before when it ends."""
        self.updates = trainer.global_step
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.on_signal)

    def on_signal(self, number: int, frame: Any) -> None:
        if self.signal:
            raise SystemExit(128 + number)
        self.signal = number
        os.write(2, b"\nstopping after the next batch; once more to stop at once\n")  # as print may be at work

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stopping = trainer.strategy.reduce_boolean_decision(bool(self.signal), all=False)
        due = self.stopping or trainer.global_step >= self.updates + self.every_n_updates
        if not due and validates_after_next_batch(trainer):
            old = time.monotonic() >= self.saved_at + RECENT_SECONDS
            due = trainer.strategy.reduce_boolean_decision(old, all=False)
        if due and between_two_batches(trainer):
            trainer.save_checkpoint(self.beside)
            self.updates, self.written, self.saved_at = trainer.global_step, True, time.monotonic()

    def on_train_batch_start(self, trainer: Any, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.written:
            return
        self.written = False
        if trainer.is_global_zero:
            put_in_place(self.beside, self.path)
        if self.stopping:
            self.stop(trainer, f"after update {self.updates:,}")

    def on_validation_batch_end(self, trainer: Any, *arguments: Any) -> None:
        if trainer.state.fn == "fit" and trainer.strategy.reduce_boolean_decision(bool(self.signal), all=False):
            self.stop(trainer, f"in the validation after update {trainer.global_step:,}")

    def stop(self, trainer: Any, place: str) -> None:
        """Ends the run. Raises SystemExit, with the exit code of a process that a signal has ended."""
        if trainer.is_global_zero:
            way = f"to go on: {self.way_on()}" if self.path.exists() else "no checkpoint has been written yet"
            print(f"stopped {place}; {way}", flush=True)
        raise SystemExit(128 + (self.signal or signal.SIGTERM))

    def on_train_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.ended = True
        trainer.save_checkpoint(self.path)
        for rest in self.path.parent.glob("*.ckpt.*"):  # of kills
            rest.unlink(missing_ok=True)

    def on_save_checkpoint(self, trainer: Any, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where training has ended in mid-epoch, Lightning takes that for a whole epoch, and would not go on in it."""
        if self.config is not None:
            checkpoint["config"] = with_found(self.config, trainer, pl_module)
        if self.ended and not trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            for counts in ("total", "current"):
                for of in ("processed", "completed"):
                    checkpoint["loops"]["fit_loop"]["epoch_progress"][counts][of] -= 1

    def on_exception(self, trainer: Any, pl_module: pl.LightningModule, exception: BaseException) -> None:
        unlock(self.path.parent.parent)
        if isinstance(exception, FloatingPointError) and self.path.exists():
            rate = pl_module.hparams["learning_rate"] / 2
            exception.add_note(f"To go on from before: {self.way_on()} --model.learning_rate {rate:g}")

    def way_on(self) -> str:
        return " ".join(["python train.py --ckpt_path", shlex.quote(str(shortest(self.path))), *self.flags])


def with_found(config: dict[str, Any], trainer: Any, pl_module: Any) -> dict[str, Any]:
    """The config with the learning rate and the batch size that the callbacks of Lightning have found."""
    found = {
        "model": {"learning_rate": pl_module.hparams["learning_rate"]},
        "data": {"batch_size": trainer.datamodule.hparams["batch_size"]} if trainer.datamodule else {},
    }
    parts = {part: config[part] | values for part, values in found.items() if part in config}
    return config | parts


def last_alone(trainer: Any) -> str:
    """The line about the checkpoint of a run without a best one."""
    for callback in trainer.callbacks:
        if isinstance(callback, LastCheckpoint) and callback.path.exists():
            return f"last checkpoint  {shortest(callback.path)} (no best.ckpt, as there was no validation)"
    return "no checkpoint was written"


def between_two_batches(trainer: Any) -> bool:
    """Whether the next thing that Lightning does is to train on the next batch, for another update."""
    accumulates = trainer.fit_loop.epoch_loop._should_accumulate()
    return not (trainer.should_stop or trainer.is_last_batch or validates(trainer) or accumulates)


def validates(trainer: Any) -> bool:
    """Whether Lightning validates after this batch."""
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher))


def validates_after_next_batch(trainer: Any) -> bool:
    """Whether a validation is expected when one more batch is trained on: at val_check_interval, at the end of an
    epoch, or at max_steps. A stop by max_time cannot be foreseen."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready + 1
    checks = trainer.val_check_batch or math.inf  # none where seconds are counted
    last = batches >= trainer.num_training_batches or trainer.global_step + 1 == trainer.max_steps
    return last or (math.isfinite(checks) and batches % checks == 0)


def loggers(folder: Path, updates: int) -> list[Any]:
    """Of a run that has made so many updates."""
    metrics = Metrics(folder, updates)
    return [metrics, TensorBoardLogger(metrics.save_dir, metrics.name, metrics.version, purge_step=updates)]


def indented(text: str) -> str:
    return "\n".join("    " + line for line in harmless(text).splitlines())
