"""Updates as CUDA graphs: recorded once, from reading a window to the optimizer's step, then replayed in one launch
where there were thousands. What must hold for it is what PyTorch's notes on CUDA graphs ask for.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from models.guard import Watch
from models.snapshots import Snapshot, difference

WARM_UP = 3  # calls before one is captured: kernels are loaded, and an optimizer has its state
COMPARE = True  # the first replay with an eager call: without, weights and random states are the same
CAPTURABLE: dict[type[torch.optim.Optimizer], dict[str, bool]] = {  # what makes them ask the device for no number
    torch.optim.SGD: {"fused": True},
    torch.optim.Adagrad: {"fused": True},
    torch.optim.RMSprop: {"capturable": True},
    torch.optim.Adam: {"fused": True, "capturable": True},
    torch.optim.AdamW: {"fused": True, "capturable": True},
}
OF_GRADIENTS = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")  # hooks


class Graphed:
    """A function of tensors that is captured as a CUDA graph after `WARM_UP` calls with inputs of the same shapes, and
    replayed for all such inputs that come later; calls with other shapes run eagerly.

    The function may change tensors in place, as weights. It must not ask the device for a number, and what it does in
    Python happens when it is captured, not at replays. Inputs and outputs are copied, so that no caller sees memory
    that a replay overwrites. On a CPU, a replay calls the function again.

    Args:
        function: what is captured.
        device: where its tensors are.
        state: returns all tensors that the function changes in place, by name. With it, the first replay is compared
            with the same call made eagerly, whose results stay, and every failure is undone. Without it, nothing is
            compared, and errors are raised.

    Where warm-up, capture or a replay raises, or the first replay differs from the eager call, the state of before is
    restored, one line on stderr says why, and the function runs eagerly from then on. `eager` tells whether it does;
    `undone`, whether that has failed, too, in the same call, and the state of before is restored.
    """

    def __init__(
        self, function: Callable[..., Any], device: torch.device, state: Callable[[], dict[str, Tensor]] | None = None
    ) -> None:
        self.function, self.device, self.state = function, device, state
        self.aside = torch.cuda.Stream(device) if device.type == "cuda" else None  # nothing else may be captured
        self.calls: Counter[Any] = Counter()
        self.recorded: Any = None  # shapes
        self.inputs: Any = None
        self.replay: Callable[[], Any] | None = None
        self.eager = self.undone = False

    def __call__(self, *inputs: Any) -> Any:
        if self.eager:
            return self.function(*inputs)
        shapes = tuple(None if part is None else (part.shape, part.dtype) for part in tree_leaves(inputs))
        self.calls[shapes] += 1
        if self.replay is None and self.calls[shapes] <= WARM_UP:
            return self.attempt("warm-up", self.run, inputs)
        if self.replay is None:
            self.recorded = shapes
            return self.attempt("the capture", self.first_replay, inputs)
        if shapes != self.recorded:
            return self.run(*inputs)
        return self.attempt("a replay", self.replayed, inputs, of_random_states_alone=True)

    def attempt(self, what: str, call: Callable[..., Any], inputs: Any, of_random_states_alone: bool = False) -> Any:
        """`call(*inputs)`. Where that raises, everything is as before, and the function runs eagerly.

        A launch that is refused has changed no tensor: for replays, which are many, the random states alone are kept.
        """
        if self.state is None:
            return call(*inputs)
        before = Snapshot({} if of_random_states_alone else self.state(), self.device)
        try:
            return call(*inputs)
        except Exception as error:
            before.restore({} if of_random_states_alone else self.state())
            self.give_up(f"{what} failed: {in_one_line(error)}")
        try:
            return self.function(*inputs)  # here, where the first error's traceback no longer holds memory
        except Exception:
            if not of_random_states_alone:
                before.restore(self.state())
                self.undone = True
            raise

    def give_up(self, reason: str) -> None:
        self.eager, self.replay, self.inputs = True, None, None
        print(f"no CUDA graphs from here on: {reason}; updates are made without them", file=sys.stderr)

    def replayed(self, *inputs: Any) -> Any:
        assert self.replay is not None
        for mine, given in zip(tree_leaves(self.inputs), tree_leaves(inputs), strict=True):
            if mine is not None:
                mine.copy_(given)
        return tree_map(copied, self.replay())

    def first_replay(self, *inputs: Any) -> Any:
        """Captures, replays, and compares with an eager call, whose outputs and state are those that stay."""
        self.inputs = tree_map(copied, inputs)
        if self.state is None or not COMPARE:
            before = Snapshot({}, self.device)
            self.replay = self.record()
            before.restore({})  # Python may have drawn numbers when it was captured
            return self.replayed(*inputs)
        before = Snapshot(self.state(), self.device)
        outputs = self.run(*inputs)
        eager = Snapshot(self.state() | named_outputs(outputs), self.device)
        self.replay = self.record()
        before.restore(self.state())
        found = self.replayed(*inputs)
        replayed = Snapshot(self.state() | named_outputs(found), self.device)
        eager.restore(self.state())
        if text := difference(replayed, eager, before, exact=torch.are_deterministic_algorithms_enabled()):
            self.give_up(f"the first replay differs from an eager update in {text}")
        return outputs

    def record(self) -> Callable[[], Any]:
        """What repeats all that the function does on the device with the inputs that are kept."""
        if self.aside is None:
            return lambda: self.function(*self.inputs)
        gc.collect()  # what is left of autograd's graphs would remember another stream
        torch.clear_autocast_cache()  # weights that were rounded before would not be rounded by the graph
        graph, pool, current = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self.aside):
                outputs = self.function(*self.inputs)
        except Exception:
            torch.cuda.set_stream(current)  # which torch.cuda.graph does not do where the end of a capture fails
            clean_up(graph, pool, self.device)
            raise
        finally:
            torch.clear_autocast_cache()  # nor may others use those that the graph has rounded

        def replay() -> Any:
            graph.replay()
            return outputs

        return replay

    def run(self, *inputs: Any) -> Any:
        """Eagerly, on the stream of the capture: autograd remembers where a gradient was summed up."""
        if self.aside is None:
            return self.function(*inputs)
        self.aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.aside):
            outputs = self.function(*inputs)
        torch.cuda.current_stream().wait_stream(self.aside)
        return outputs


def clean_up(graph: Any, pool: Any, device: torch.device) -> None:
    """Ends what a failed capture leaves open, so that eager work can go on.

    A capture that an error of CUDA has invalidated leaves its memory pool registered with the allocator, which then no
    longer gives cached memory back, and in some versions of torch its generator in capture mode, where drawing raises.
    """
    graph.reset()
    index = torch.cuda.current_device() if device.index is None else device.index
    with suppress(AttributeError, RuntimeError):  # not public; raises where the capture did end
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())  # a clone is in no capture


def in_one_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    parts = [part for part in tree_leaves(outputs) if part is not None]
    return {f"output {place}": part for place, part in enumerate(parts, start=1)}


def copied(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.clone()


class GraphedUpdates:
    """The updates of a model in training, each all that Lightning would do between two batches of a single process:
    gradients, hooks, clipping and the optimizer's step, in that order.

    Called with what `model.read` is given. Returns the loss, the norm of all gradients before clipping, and the state.
    `watch` stands for the guard, as nobody waits for an update to end.

    Returns None where updates of this kind are not possible at all, as an optimizer does not take the options for
    graphs: then `model.graphed` is None, and Lightning makes this update and those after it.
    """

    def __init__(self, model: Any) -> None:
        self.model, (self.optimizer,), self.watch = model, model.trainer.optimizers, Watch(model)
        self.graphed = Graphed(self.update, model.device, self.state)
        (group,) = self.optimizer.param_groups
        self.options = {name: group[name] for name in CAPTURABLE[type(self.optimizer)]}
        make_capturable(self.optimizer, model.device)

    def __call__(self, *inputs: Any) -> Any:
        eager = self.graphed.eager
        try:
            return self.graphed(*inputs)
        except Exception as error:
            if not self.graphed.undone:  # after an illegal access, say, the device does nothing more
                if not eager:
                    error.add_note("To go without CUDA graphs: --model.cuda_graph false")
                raise
        (group,) = self.optimizer.param_groups
        group.update(self.options, lr=float(group["lr"]))
        self.model.graphed = None
        return None

    def state(self) -> dict[str, Tensor]:
        """All that an update changes in place: weights, the optimizer's state and rate, the guard's flags and counts,
        and what callbacks count on the device."""
        model, callbacks = self.model, self.model.trainer.callbacks
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for group in self.optimizer.param_groups:
            tensors["learning rate"] = group["lr"]
            for place, parameter in enumerate(group["params"]):
                of_parameter = self.optimizer.state.get(parameter, {})
                tensors |= {f"{name} of weight {place}": value for name, value in of_parameter.items()}
        tensors |= {f"guard's {name}": value for name, value in vars(self.watch).items()}
        for callback in callbacks:
            if getattr(callback, "in_graphs", False):
                tensors |= {f"{type(callback).__name__}.{name}": value for name, value in vars(callback).items()}
        return {name: value for name, value in tensors.items() if isinstance(value, Tensor)}

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
        "the optimizer is not one that can be captured": not capturable(trainer.optimizers),
        f"{', '.join(callbacks)} must see the gradients of each": bool(callbacks),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def has(trainer: Any, kind: type[pl.Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in trainer.callbacks)


def capturable(optimizers: list[torch.optim.Optimizer]) -> bool:
    """There is one, of a known type, with a single group of weights; before training there is none yet."""
    known = all(type(optimizer) in CAPTURABLE and len(optimizer.param_groups) == 1 for optimizer in optimizers)
    return known and len(optimizers) <= 1


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
            as_made = {name: optimizer.defaults[name] for name in CAPTURABLE.get(type(optimizer), {})}
            group.update(as_made, lr=float(group["lr"]))
    for schedule in checkpoint.get("lr_schedulers", []):
        schedule["_last_lr"] = [float(rate) for rate in schedule["_last_lr"]]
