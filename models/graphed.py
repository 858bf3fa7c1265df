"""Updates as CUDA graphs: recorded once, from reading a window to the optimizer's step, then replayed in one launch
where there were thousands. What must hold for it is what PyTorch's notes on CUDA graphs ask for.
"""

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from models.guard import Watch

WARM_UP = 3  # calls before one is recorded: kernels are loaded, and an optimizer has its state
CAPTURABLE: dict[type[torch.optim.Optimizer], dict[str, bool]] = {  # what makes them ask the device for no number
    torch.optim.SGD: {"fused": True},
    torch.optim.Adagrad: {"fused": True},
    torch.optim.RMSprop: {"capturable": True},
    torch.optim.Adam: {"fused": True, "capturable": True},
    torch.optim.AdamW: {"fused": True, "capturable": True},
}
OF_GRADIENTS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")  # hooks


class Graphed:
    """A function of tensors that is recorded after `WARM_UP` calls with inputs of the same shapes, and replayed for all
    such inputs that come later; for others it runs as it is, before and between.

    It may change in place what it finds, as weights. It must not ask the device for a number, and what it does in
    Python it does when it is recorded, not again. Inputs and outputs are copied: nobody sees memory that a replay
    overwrites. What a graph needs of memory it keeps. On a CPU, what would be replayed runs again.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self.function = function
        self.aside = torch.cuda.Stream(device) if device.type == "cuda" else None  # nothing else may be recorded
        self.calls: Counter[Any] = Counter()
        self.recorded: Any = None  # shapes
        self.inputs: Any = None
        self.replay: Callable[[], Any] | None = None

    def __call__(self, *inputs: Any) -> Any:
        shapes = tuple(None if part is None else (part.shape, part.dtype) for part in tree_leaves(inputs))
        self.calls[shapes] += 1
        if self.replay is None and self.calls[shapes] > WARM_UP:
            self.recorded, self.inputs = shapes, tree_map(copied, inputs)
            self.replay = self.record()
        if self.replay is None or shapes != self.recorded:
            return self.run(*inputs)
        for mine, given in zip(tree_leaves(self.inputs), tree_leaves(inputs), strict=True):
            if mine is not None:
                mine.copy_(given)
        return tree_map(copied, self.replay())

    def record(self) -> Callable[[], Any]:
        """What repeats all that the function does on the device with the inputs that are kept."""
        if self.aside is None:
            return lambda: self.function(*self.inputs)
        gc.collect()  # what is left of autograd's graphs would remember another stream
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.aside):
            outputs = self.function(*self.inputs)

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay

    def run(self, *inputs: Any) -> Any:
        """As it is, where it would be recorded: autograd remembers where a gradient was summed up."""
        if self.aside is None:
            return self.function(*inputs)
        self.aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.aside):
            outputs = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(self.aside)
        return outputs


def copied(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.clone()


class GraphedUpdates:
    """The updates of a model in training, each all that Lightning would do between two batches of a single process:
    gradients, hooks, clipping and the optimizer's step, in that order.

    Called with what `model.read` is given. Returns the loss, the norm of all gradients before clipping, and the state.
    `watch` stands for the guard, as nobody waits for an update to end.
    """

    def __init__(self, model: Any) -> None:
        self.model, (self.optimizer,), self.watch = model, model.trainer.optimizers, Watch(model)
        make_capturable(self.optimizer, model.device)
        self.graphed = Graphed(self.update, model.device)

    def __call__(self, *inputs: Any) -> Any:
        try:
            return self.graphed(*inputs)
        except RuntimeError as error:  # there may be too little memory, or what cannot be recorded
            error.add_note("To go without CUDA graphs: --model.cuda_graph false")
            raise

    def update(self, *inputs: Any) -> tuple[Tensor, Tensor, Any]:
        model, trainer = self.model, self.model.trainer
        loss, state = model.read(*inputs)
        with torch.autocast(model.device.type, enabled=False):  # which Lightning has for reading alone
            self.optimizer.zero_grad()
            loss.backward()
            for callback in trainer.callbacks:
                callback.on_before_optimizer_step(trainer, model, self.optimizer)
            loss, (group,) = loss.detach(), self.optimizer.param_groups
            norm = self.watch.let_through(loss, [p.grad for p in model.parameters()], group["lr"])
            model.norm = norm.masked_fill(~self.watch.finite, 0)
            limit = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            model.configure_gradient_clipping(self.optimizer, *limit)
            self.optimizer.step()
        return loss, norm, state


def reason_against(model: Any) -> str:
    """Why the updates of a model in training are not to be recorded; nothing where they are."""
    trainer = model.trainer
    sums = trainer.accumulate_grad_batches > 1 or has(trainer, GradientAccumulationScheduler)
    callbacks = [type(callback).__name__ for callback in trainer.callbacks if looks_at_gradients(callback)]
    reasons = {
        "--model.cuda_graph is false": not model.hparams["cuda_graph"],
        f"they are made on the {model.device.type}": model.device.type != "cuda",
        "processes share their gradients in hooks": not isinstance(trainer.strategy, SingleDeviceStrategy),
        "the gradients of several windows are summed up": sums,
        "float16 decides at each how to scale the next": getattr(trainer.precision_plugin, "scaler", None) is not None,
        "--model.recompute reads the random state": model.hparams["recompute"] > 0,
        "anomalies are asked for": torch.is_anomaly_enabled(),
        f"{', '.join(callbacks)} must see the gradients of each": bool(callbacks),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def has(trainer: Any, kind: type[pl.Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in trainer.callbacks)


def looks_at_gradients(callback: pl.Callback) -> bool:
    """In Python, at every update. Who does it on the device alone, in place, says so by `in_graphs`."""
    overrides = any(getattr(type(callback), hook) is not getattr(pl.Callback, hook) for hook in OF_GRADIENTS)
    return overrides and not getattr(callback, "in_graphs", False)


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Puts on the device what changes from update to update: the learning rate, which schedules then write into, and
    the number of the update. On a CPU the rate alone, as precise as it was; torch's kernels for GPUs want float32."""
    on_gpu = device.type == "cuda"
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32 if on_gpu else torch.float64, device=device)
        group.update(CAPTURABLE[type(optimizer)] if on_gpu else {})
    for state in optimizer.state.values():
        if on_gpu and "step" in state:
            state["step"] = state["step"].to(device, torch.float32)


def without_graphs(checkpoint: dict[str, Any], optimizers: list[torch.optim.Optimizer]) -> None:
    """Makes a checkpoint one that any run can go on from, wherever it runs."""
    for optimizer, state in zip(optimizers, checkpoint.get("optimizer_states", []), strict=False):
        for group in state["param_groups"]:
            as_made = {name: optimizer.defaults[name] for name in CAPTURABLE[type(optimizer)]}
            group.update(as_made, lr=float(group["lr"]))
    for schedule in checkpoint.get("lr_schedulers", []):
        schedule["_last_lr"] = [float(rate) for rate in schedule["_last_lr"]]
