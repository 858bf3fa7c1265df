"""How Lightning trains the models of this project: optimizers and schedules that torch has, chosen by name."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from models.checkpoint_files import CheckedFiles, read_checkpoint
from models.checkpoint_schema import register
from models.graphed import CAPTURABLE, GraphedUpdates, without_graphs
from models.guard import check_update
from models.other_batches import restart_epoch
from models.recurrent import Recurrent

MOST_LAYERS, MOST_UNITS, MOST_WEIGHTS = 1000, 2**17, 10**10  # what is larger would fill the memory before it fails
OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class Trained(pl.LightningModule):
    """A model with recurrent layers, an optimizer and a schedule.

    Args:
        optimizer: the optimizer of torch.
        learning_rate: the learning rate, before the schedule's factor.
        weight_decay: the weight decay of the optimizer.
        schedule: constant; exponential, `decay_rate ** (epoch / decay_steps)`; cosine, from 1 to 0 over the run;
            plateau, times `decay_rate` after `decay_steps` validations without a better one.
        warmup_steps: updates over which the rate rises linearly from 0.
        decay_rate: the factor of the exponential and plateau schedules.
        decay_steps: epochs (exponential) or validations (plateau) for one such factor.
        matmul_precision: of float32 matrix products. highest computes them in float32; medium rounds their factors to
            bfloat16 where the machine has units for that, and sums in float32: faster, and fine for training.

    Raises ValueError for what cannot be trained with.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("train_loss", "val_loss", "learning_rate", "grad_norm", "tokens_per_second")
    recurrent: Recurrent
    random_states: Sequence[Sequence[Tensor]] = ()  # of each process, to go on with
    other_random_states: Sequence[Any] = ()  # of Python and NumPy
    data_states: Sequence[dict[str, Any]] = ()  # of what is read
    loss: Tensor  # of the last batch
    norm: Tensor  # of all gradients together, before clipping
    graphed: GraphedUpdates | None = None  # makes the updates, where Lightning does not

    def __init__(
        self,
        optimizer: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"] = "adamw",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "exponential", "cosine", "plateau"] = "constant",
        warmup_steps: int = 0,
        decay_rate: float = 0.5,
        decay_steps: int = 1,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.check_sizes(decay_steps=decay_steps)
        for name, rate in self.hparams.items():
            if name in ("learning_rate", "weight_decay", "warmup_steps") and not 0 <= rate < math.inf:
                raise ValueError(f"--model.{name} is {rate}: it must be 0 or more")
        if not 0 < decay_rate < 1:
            raise ValueError(f"--model.decay_rate is {decay_rate}: it must lie between 0 and 1")
        if schedule == "plateau" and warmup_steps:
            raise ValueError("--model.warmup_steps cannot be combined with --model.schedule plateau: leave it at 0")

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's also unpickles what it finds, and takes URLs
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **options: Any,
    ) -> Self:
        """The model that a checkpoint holds, whatever Trainer wrote it, on the CPU, or on the device `map_location`.

        `weights_only` changes nothing: a checkpoint is always read as data. `options` replace those that the checkpoint
        was trained with. A model is returned in training mode, as Lightning does it: call `eval()` before predicting.
        Raises OSError or ValueError where the file is not a checkpoint of such a model.
        """
        checkpoint = read_checkpoint(str(checkpoint_path))
        saved = checkpoint["hyper_parameters"]
        arguments = {name: value for name, value in saved.items() if not name.startswith("_")} | options
        try:
            model = cls(**arguments)
            model.to(next(iter(checkpoint["state_dict"].values())).dtype)
            model.load_state_dict(checkpoint["state_dict"], strict=strict is not False)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{checkpoint_path}: is not a checkpoint of this {cls.__name__}: {error}") from None
        return model.to(map_location) if isinstance(map_location, str | int | torch.device) else model

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register(cls)  # the options of its checkpoints are checked with the types of its arguments

    @staticmethod
    def check_sizes(**sizes: int) -> None:
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"--model.{name} is {value}: it must be at least 1")
        layers, width, inputs = (sizes.get(name, 1) for name in ("num_layers", "hidden_size", "embedding_size"))
        weights = layers * 4 * width * (2 * width + inputs)
        if layers > MOST_LAYERS or max(width, inputs) > MOST_UNITS or weights > MOST_WEIGHTS:
            given = f"--model.num_layers {layers}, hidden_size {width} and embedding_size {inputs}"
            most = f"{MOST_LAYERS:,} layers, {MOST_UNITS:,} units and {MOST_WEIGHTS:.0e} weights"
            raise ValueError(f"{given} make a model of {weights:.1e} weights; there may be at most {most}")

    def setup(self, stage: str) -> None:
        """A Trainer's own way to read checkpoints would run code that a file has."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = CheckedFiles()

    def on_fit_start(self) -> None:
        torch.set_float32_matmul_precision(self.hparams["matmul_precision"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.graphed:
            self.graphed.watch.look()
        without_graphs(checkpoint, self.trainer.optimizers)
        checkpoint["random_states"] = gathered([torch.get_rng_state(), *torch.cuda.get_rng_state_all()])
        of_numpy = np.random.get_state(legacy=False)
        of_numpy["state"]["key"] = of_numpy["state"]["key"].tolist()
        checkpoint["other_random_states"] = gathered([random.getstate(), of_numpy])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores random states and positions. A checkpoint with weights alone has none."""
        if "optimizer_states" in checkpoint:
            self.restart_epoch(checkpoint)
            self.random_states = checkpoint["random_states"]
            self.other_random_states = checkpoint["other_random_states"]
            states = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
            self.data_states = states or [{"position": 0}] * (checkpoint["global_step"] == 0)
            prefer(dict(self.hparams), checkpoint)
        self.to(next(iter(checkpoint["state_dict"].values())).dtype)  # Lightning does after it has rounded to float32

    def restart_epoch(self, checkpoint: dict[str, Any]) -> None:
        """Restarts the epoch if training continues with another batch size or window."""
        trainer: Any = self.trainer
        if trainer.state.fn == "fit" and hasattr(trainer.datamodule, "moved"):
            message = restart_epoch(checkpoint, trainer.datamodule)
            if message and trainer.is_global_zero:
                print(message)

    def on_train_start(self) -> None:
        """Each process drops something else; a run that is resumed, what one that was never stopped would drop."""
        rank = self.trainer.global_rank
        if rank < len(self.random_states):
            on_cpu, *on_devices = self.random_states[rank]
            torch.set_rng_state(on_cpu.cpu())
            for device, state in enumerate(on_devices[: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state.cpu(), device)
            of_python, of_numpy = self.other_random_states[rank]
            random.setstate(of_python)
            np.random.set_state(of_numpy)
        elif rank:
            torch.manual_seed(torch.initial_seed() + rank)
        loader: Any = self.trainer.train_dataloader
        for position in self.data_states:  # Lightning leaves it out where an epoch has ended
            if hasattr(loader, "load_state_dict"):
                loader.load_state_dict(position)
        self.adopt_learning_rate()

    def adopt_learning_rate(self) -> None:
        """Tells the schedule of a learning rate that LearningRateFinder has put in the place of the one it knows."""
        rate = self.hparams["learning_rate"]
        for config in self.trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if isinstance(schedule, LambdaLR) and schedule.base_lrs != [rate]:
                schedule.base_lrs = [rate]
                schedule.optimizer.param_groups[0]["lr"] = rate * self.learning_rate_factor(schedule.last_epoch)

    def on_train_end(self) -> None:
        if self.graphed:
            self.graphed.watch.look()
        self.graphed = None

    def summed(self, *numbers: float) -> list[float]:
        """Of all processes, in float64."""
        return [math.fsum(of) for of in zip(*gathered(numbers), strict=True)]

    def logs_now(self) -> bool:
        """Whether the loggers will write what is logged before this update; computing it at others would be in vain."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector
        return (self.trainer.global_step + 1) % every == 0

    def log_learning_rate(self) -> None:
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Where updates are graphs, `training_step` makes this one, and Lightning only counts and logs it. Where the
        closure has given graphs up, the gradients are there, and the optimizer's step is still to be made."""
        if self.graphed and optimizer_closure:
            loss = optimizer_closure()
            if self.graphed:
                return
            super().optimizer_step(epoch, batch_idx, optimizer, lambda: loss)
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.graphed is None:
            super().backward(loss, *args, **kwargs)

    def on_before_backward(self, loss: Tensor) -> None:
        self.loss = loss.detach()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.norm = nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # that of float16 skips such updates itself
            check_update(self, self.loss, self.norm)
        if self.logs_now():
            self.log("grad_norm", self.norm)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By the norm that is known already."""
        if gradient_clip_val and gradient_clip_algorithm != "value":
            nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, self.norm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        options, kind = self.hparams, OPTIMIZERS[self.hparams["optimizer"]]
        # one pass over the weights, where torch has that; Lightning refuses to clip with it in mixed precision
        fused = "fused" in CAPTURABLE[kind] and not isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer = kind(
            self.parameters(), lr=options["learning_rate"], weight_decay=options["weight_decay"],
            **{"fused": True} if fused else {},
        )  # fmt: skip
        if options["schedule"] == "plateau":
            plateau = ReduceLROnPlateau(optimizer, factor=options["decay_rate"], patience=options["decay_steps"])
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "strict": False},
            }
        schedule = LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def on_validation_end(self) -> None:
        """The plateau counts validations, whenever they are, but for one because training stops. Lightning would count
        epochs, without the one that a run is resumed in."""
        trainer = self.trainer
        schedule = self.lr_schedulers() if trainer.state.fn == "fit" and not trainer.sanity_checking else None
        if isinstance(schedule, ReduceLROnPlateau) and not trainer.should_stop:
            schedule.step(self.trainer.callback_metrics["val_loss"])

    def learning_rate_factor(self, step: int) -> float:
        """The schedule's factor at an update, counted from 0: lr = learning_rate · warm-up · schedule."""
        options = self.hparams
        warmup = min(1.0, (step + 1) / (options["warmup_steps"] + 1))
        if step == 0 or options["schedule"] == "constant":
            return warmup
        # Lightning's own estimate of the number of updates would rebuild the loaders and lose their position.
        updates_per_epoch = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches) or 1
        if options["schedule"] == "exponential":
            return warmup * options["decay_rate"] ** (step // updates_per_epoch / options["decay_steps"])
        epochs = self.trainer.max_epochs
        limits = [updates_per_epoch * epochs if epochs and epochs > 0 else 0, self.trainer.max_steps]
        updates = min((limit for limit in limits if limit > 0), default=0)
        return warmup * (1 + math.cos(math.pi * min(1.0, step / updates))) / 2 if updates else warmup


def prefer(options: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    """Puts options of now in the place of those that a checkpoint's optimizer and schedule were made with."""
    before, rate = checkpoint["hyper_parameters"]["learning_rate"], options["learning_rate"]
    for state in checkpoint["optimizer_states"]:
        for group in state["param_groups"]:
            group["weight_decay"] = options["weight_decay"]
            if rate != before:
                group["lr"] = group["lr"] / before * rate if before else rate
    for schedule in checkpoint["lr_schedulers"]:
        if "base_lrs" in schedule:
            schedule["base_lrs"] = [rate] * len(schedule["base_lrs"])
        else:
            schedule.update(factor=options["decay_rate"], patience=options["decay_steps"])


def gathered(mine: Any) -> list[Any]:
    """What each process has, by rank; all of them must ask."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, mine)
    return found
