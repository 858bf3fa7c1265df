"""Updates that are recorded and replayed: the same bits as those that Lightning makes, on a device that waits for
nobody.

There need be no GPU: on a CPU, what is recorded runs again. A tape stands for a CUDA graph where it matters that Python
does not run again.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.plugins import MixedPrecision, Precision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datamodules.text import TextDataModule
from models import graphed as module
from models import language_model
from models.callbacks import LastCheckpoint
from models.graphed import CAPTURABLE, Graphed, GraphedUpdates, reason_against
from models.insight.flow import GradientFlow
from models.language_model import LanguageModel
from models.training import OPTIMIZERS, Trained

NEVER = 10**9
AS_THEY_ARE, BY_LIGHTNING, RECORDED = "as they are", "by Lightning", "recorded"  # how updates are made
FUSED = [name for name, kind in OPTIMIZERS.items() if "fused" in CAPTURABLE[kind]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """26 windows of 8 steps of 4 streams, of which the last is short."""
    (path := tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    return path


class Seen(pl.Callback):
    """What each update reports."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())
        names = ("train_loss", "train_bpc", "grad_norm", "learning_rate")
        self.logged.append({name: float(of) for name, of in trainer.callback_metrics.items() if name in names})


Trainable = Callable[..., tuple[LanguageModel, Seen]]


@pytest.fixture
def trained(path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainable:
    def trained(how: str, *callbacks: Any, ckpt_path: Any = None, **options: Any) -> tuple[LanguageModel, Seen]:
        monkeypatch.setattr(language_model, "reason_against", lambda model: "asked" if how == BY_LIGHTNING else "")
        monkeypatch.setattr(module, "WARM_UP", NEVER if how == AS_THEY_ARE else 3)
        of_model = {"embedding_size": 4, "hidden_size": 6, "learning_rate": 0.01, "backend": "fused"}
        of_trainer = {"max_epochs": 2, "log_every_n_steps": 3, "limit_val_batches": 0, "accelerator": "cpu"}
        of_trainer |= dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        for name, value in options.items():
            (of_model if name in LanguageModel(2).hparams else of_trainer)[name] = value
        pl.seed_everything(0)
        data = TextDataModule(str(path), batch_size=4, window=8)
        model, seen = LanguageModel(data.vocab_size, **of_model), Seen()
        trainer = pl.Trainer(callbacks=[*callbacks, seen], num_sanity_val_steps=0, **of_trainer)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return model, seen

    return trained


def same(a: LanguageModel, b: LanguageModel) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


class Tape(TorchDispatchMode):
    """A CUDA graph on a CPU: the operations on tensors, to be repeated in the same memory, without what Python did
    between them. When it is made, nothing has happened. Like one, it knows no number while it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []
        self.made: dict[int, Any] = {}
        self.found: dict[int, tuple[Tensor, Tensor]] = {}  # what was there before, and its values

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number is asked for"
        for part in tensors((args, kwargs)):
            if id(part) not in self.made and id(part) not in self.found:
                self.found[id(part)] = part, part.detach().clone()
        outputs = function(*args, **kwargs)
        self.made |= {id(part): part for part in tensors(outputs) if id(part) not in self.found}
        self.operations.append((function, args, kwargs, outputs))
        return outputs

    @torch.no_grad()
    def undo(self) -> None:
        for part, before in self.found.values():
            part.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, outputs in self.operations:
            for old, new in zip(tensors(outputs), tensors(function(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors(tree: Any) -> list[Tensor]:
    return [part for part in tree_leaves(tree) if isinstance(part, Tensor)]


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Every tape that is made from now on. The optimizers ask for no number, as on a GPU."""
    tapes: list[Tape] = []

    def record(self: Graphed) -> Callable[[], Any]:
        random = torch.get_rng_state()
        with Tape() as tape:
            outputs = self.function(*self.inputs)
        tape.undo()
        torch.set_rng_state(random)
        tapes.append(tape)

        def replay() -> Any:
            tape.replay()
            return outputs

        return replay

    plain = module.make_capturable

    def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        plain(optimizer, device)
        for group in optimizer.param_groups:
            group["fused"] = True

    monkeypatch.setattr(Graphed, "record", record)
    monkeypatch.setattr(module, "make_capturable", make_capturable)
    return tapes


EVERYTHING = {
    "num_layers": 2, "dropout": 0.2, "weight_dropout": 0.3, "weight_decay": 0.1, "schedule": "cosine",
    "warmup_steps": 9, "gradient_clip_val": 0.3,
}  # fmt: skip
KINDS: list[dict[str, Any]] = [
    *({"optimizer": name, **EVERYTHING} for name in OPTIMIZERS),
    {"cell": "rnn", "backend": "autograd", "gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    {"cell": "gru", "attention_span": 12, "schedule": "exponential", "loss": "last"},
    {"embedding_size": None, "schedule": "plateau", "limit_val_batches": 1, "val_check_interval": 0.2},
    {"tied": True, "embedding_size": 6, "precision": "64-true", "dropout": 0.5, "dropout_per": "window"},
    {"precision": "bf16-mixed"},
]


class Hook(pl.Callback):
    """What it finds at each update; old gradients lie about when training begins."""

    in_graphs = True

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad = torch.ones_like(parameter)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in pl_module.parameters()])
        self.found.append((float(norm), torch.is_autocast_enabled("cpu"), optimizer is trainer.optimizers[0]))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_run_of_graphs_gives_the_bits_of_one_by_lightning(trained: Trainable, kind: dict[str, Any]) -> None:
    """Fresh texts and short windows among them; what is logged, and what hooks find, too."""
    hook, of_lightning = Hook(), Hook()
    plain, of_plain = trained(BY_LIGHTNING, of_lightning, **kind)
    model, of_graphs = trained(RECORDED, hook, **kind)
    twice = next(place for place, found in enumerate(hook.found) if hook.found[place + 1] == found)
    assert hook.found[:twice] + hook.found[twice + 1 :] == of_lightning.found, "the first replay is compared"
    assert len(of_plain.losses) == 2 * 26 and of_graphs.losses == of_plain.losses
    assert same(model, plain) and all(
        torch.equal(*parts) for parts in zip(*map(tree_leaves, (model.state, plain.state)), strict=True)
    )
    for ours, theirs in zip(of_graphs.logged, of_plain.logged, strict=True):
        assert ours.keys() == theirs.keys()
        # the rate is logged as it is used, in float64, and else in float32: half an ULP of that
        assert ours.pop("learning_rate", 0) == pytest.approx(theirs.pop("learning_rate", 0), rel=2**-24)
        assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [*({"optimizer": name, **EVERYTHING} for name in FUSED), *({**kind, "optimizer": "sgd"} for kind in KINDS[5:])],
    ids=str,
)
def test_a_replay_needs_nothing_of_python(
    trained: Trainable, taped: list[Tape], tmp_path: Path, kind: dict[str, Any]
) -> None:
    """No rate, number of an update or count is frozen; no tensor is replaced that a replay changes."""
    plain, of_plain = trained(AS_THEY_ARE, GradientFlow(tmp_path / "plain.npz", 5), **kind)
    assert not taped
    model, of_graphs = trained(RECORDED, GradientFlow(tmp_path / "graphs.npz", 5), **kind)
    assert len(taped) == 1 and taped[0].operations
    assert of_graphs.losses == of_plain.losses and of_graphs.logged == of_plain.logged and same(model, plain)
    ours, theirs = np.load(tmp_path / "graphs.npz"), np.load(tmp_path / "plain.npz")
    assert all((ours[name] == theirs[name]).all() for name in theirs.files)
    assert "gradient_clip_val" not in kind or 0 < theirs["clipped"].mean() < 1


def test_inputs_and_outputs_are_nobody_elses_memory(taped: list[Tape]) -> None:
    weight = torch.zeros(2)

    def function(x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        weight.add_(x)
        return weight * 1, (torch.zeros(2) if state is None else state) + x

    graphed, state, outputs = Graphed(function, torch.device("cpu")), None, []
    for k in range(1, 8):
        x = torch.full((2,), float(k))
        weights, state = graphed(x, state)
        outputs += [weights, state]
        x.fill_(torch.nan)
    assert [part.tolist() for part in outputs] == [[k * (k + 1) / 2] * 2 for k in range(1, 8) for _ in range(2)]
    assert len(taped) == 1


def test_other_shapes_run_as_they_are_before_and_between(taped: list[Tape]) -> None:
    shapes: list[Any] = []
    graphed = Graphed(lambda x: shapes.append((tuple(x.shape), x.dtype)) or x + 1, torch.device("cpu"))
    often, other = torch.zeros(3), (torch.zeros(2), torch.zeros(3, dtype=torch.float64))
    for k in range(9):
        assert graphed(often + k).tolist() == [k + 1] * 3
        assert all(graphed(x).dtype == x.dtype for x in other)
    known = [((3,), torch.float32), ((2,), torch.float32), ((3,), torch.float64)]
    assert shapes == known * 4 + known[1:] * 5, "three calls, one recording, and none after it"


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer, before, after",
    [
        *((name, RECORDED, BY_LIGHTNING) for name in OPTIMIZERS),
        ("adamw", BY_LIGHTNING, RECORDED),
        ("adamw", RECORDED, RECORDED),
    ],
)
def test_a_run_goes_on_in_mid_epoch_with_graphs_and_without(
    trained: Trainable, tmp_path: Path, optimizer: str, before: str, after: str
) -> None:
    kind = EVERYTHING | {"optimizer": optimizer, "limit_val_batches": 1}

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            trainer.should_stop = trainer.global_step == 40  # in the second epoch

    whole, of_whole = trained(BY_LIGHTNING, **kind)
    trained(before, Stop(), LastCheckpoint(tmp_path / "last.ckpt"), **kind)
    resumed, of_resumed = trained(after, ckpt_path=tmp_path / "last.ckpt", **kind)
    assert of_resumed.losses == of_whole.losses[40:] and same(resumed, whole)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_does_not_tell_that_there_were_graphs(trained: Trainable, tmp_path: Path, optimizer: str) -> None:
    found = []
    for how in (BY_LIGHTNING, RECORDED):
        trained(how, LastCheckpoint(tmp_path / "last.ckpt", 35), max_steps=35, optimizer=optimizer, warmup_steps=200)
        checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
        found.append(
            [checkpoint.keys(), checkpoint["optimizer_states"][0]["param_groups"], checkpoint["lr_schedulers"]]
        )
        assert {"graphed", "watch"}.isdisjoint(checkpoint["state_dict"])
    assert repr(found[0]) == repr(found[1]), "a tensor would equal its number"


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_know_the_options_that_graphs_need_and_those_are_taken_back(kind: Any) -> None:
    optimizer = kind([torch.zeros(2, requires_grad=True)], lr=0.25)
    (group,), (before,) = optimizer.param_groups, copy.deepcopy(optimizer.state_dict()["param_groups"])
    assert CAPTURABLE[kind].keys() <= before.keys()
    group.update(CAPTURABLE[kind], lr=torch.tensor(0.25))
    checkpoint = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [{"_last_lr": [group["lr"]]}]}
    module.without_graphs(checkpoint, [optimizer])
    assert repr(checkpoint["optimizer_states"][0]["param_groups"]) == repr([before])
    assert repr(checkpoint["lr_schedulers"]) == "[{'_last_lr': [0.25]}]" and isinstance(group["lr"], Tensor)


class Poison(pl.Callback):
    """Multiplies one loss, or adds to it."""

    def __init__(self, value: float, update: int) -> None:
        self.value, self.update, self.factor, self.adds = value, update, torch.ones(()), False
        self.weights: dict[str, Tensor] = {}

    def __call__(self, loss: Tensor) -> Tensor:
        return loss + (self.factor - 1) if self.adds else loss * self.factor

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step + 1 == self.update:
            self.weights = copy.deepcopy(pl_module.state_dict())
        self.factor.fill_(self.value if trainer.global_step + 1 == self.update else 1.0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> tuple[Poison, list[LanguageModel]]:
    """What makes the loss of update 7 NaN, and the models that were trained."""
    poison, models, read = Poison(math.nan, 7), list[LanguageModel](), LanguageModel.read

    def poisonous(self: LanguageModel, tokens: Tensor, state: Any) -> Any:
        loss, state = read(self, tokens, state)
        models.append(self)
        return poison(loss), state

    monkeypatch.setattr(LanguageModel, "read", poisonous)
    return poison, models


@pytest.mark.parametrize("value, update", [(math.nan, 7), (math.inf, 7), (math.nan, 2)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_update_that_is_not_finite_changes_no_weight_and_is_told_at_the_next_look(
    trained: Trainable, poisoned: tuple[Poison, list[LanguageModel]], request: pytest.FixtureRequest, optimizer: str,
    value: float, update: int,
) -> None:  # fmt: skip
    """Those after it would be finite."""
    if optimizer in FUSED:
        request.getfixturevalue("taped")
    poison, models = poisoned
    poison.value, poison.update = value, update
    said = rf"^update {update} was not made: the loss is {value}, the norm of the gradient of .* is nan, .* is 0.01\.$"
    with pytest.raises(FloatingPointError, match=said):
        trained(RECORDED, poison, optimizer=optimizer, weight_decay=0.1, log_every_n_steps=10)
    assert models[0].trainer.global_step == 9, "told when update 10 is logged"
    assert poison.weights and all(torch.equal(models[0].state_dict()[name], of) for name, of in poison.weights.items())


@pytest.mark.parametrize("adds", [False, True], ids=["gradients, too", "the loss alone"])
def test_the_update_that_is_told_is_the_same_as_without_graphs(
    trained: Trainable, poisoned: tuple[Poison, list[LanguageModel]], adds: bool
) -> None:
    told, poisoned[0].adds = [], adds
    for how in (BY_LIGHTNING, RECORDED):
        with pytest.raises(FloatingPointError) as caught:
            trained(how, poisoned[0], log_every_n_steps=10, warmup_steps=30)
        told.append(str(caught.value))
    assert told[0] == told[1]


@pytest.mark.parametrize("saves", [True, False], ids=["a checkpoint is written", "training ends"])
def test_what_is_not_finite_is_told_before(
    trained: Trainable, poisoned: tuple[Poison, list[LanguageModel]], tmp_path: Path, saves: bool
) -> None:
    last = [LastCheckpoint(tmp_path / "last.ckpt", 5)] * saves
    with pytest.raises(FloatingPointError, match="update 7 was not made"):
        trained(RECORDED, poisoned[0], *last, log_every_n_steps=1000, max_steps=12)
    assert not saves or torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


class OnOneDevice(TorchDispatchMode):
    """Nothing is copied from or to the CPU. That no number is asked for, tensors without values see to."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = function(*args, **kwargs or {})
        assert all(part.is_meta for part in tensors((args, kwargs, outputs))), function
        return outputs


@pytest.mark.parametrize("clip", [(None, None), (0.5, "norm"), (0.5, "value")])
@pytest.mark.parametrize(
    "kind",
    [
        {"cell": "lstm", "backend": "fused", "num_layers": 2, "dropout": 0.2, "weight_dropout": 0.2, "tied": True},
        {"cell": "gru", "backend": "autograd", "attention_span": 5, "dropout_per": "window", "dropout": 0.2},
        {"cell": "rnn", "backend": "fused", "embedding_size": None, "loss": "last"},
        {"cell": "lstm", "backend": "fused", "vocab_size": 500, "embedding_size": None},
    ],
    ids=str,
)
def test_an_update_waits_for_nothing_and_copies_nothing_to_the_device(
    kind: dict[str, Any], clip: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """But for the optimizer's step, which is torch's, and the comparison, which is made once."""
    monkeypatch.setattr(module, "COMPARE", False)
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *given: False)
    model = LanguageModel(**{"vocab_size": 7, "embedding_size": 6, "hidden_size": 6, **kind}).to("meta")
    (optimizer,) = optimizers = [torch.optim.SGD(model.parameters())]
    optimizer.step = lambda: None  # type: ignore[method-assign]
    flow = GradientFlow(tmp_path / "flow.npz")
    model._trainer = SimpleNamespace(
        optimizers=optimizers, callbacks=[flow], global_step=0, gradient_clip_val=clip[0],
        gradient_clip_algorithm=clip[1], precision_plugin=Precision(),
    )  # fmt: skip
    flow.on_train_start(model.trainer, model)
    updates, tokens, state = GraphedUpdates(model), torch.zeros(9, 3, dtype=torch.int64, device="meta"), None
    with OnOneDevice():
        for _ in range(module.WARM_UP + 3):
            loss, norm, state = updates(tokens, state)
    assert loss.is_meta and norm.is_meta and not loss.requires_grad and not updates.graphed.eager


class LooksAtGradients(pl.Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("reason", "of_model", "of_trainer"),
    [
        ("", {}, {}),
        ("", {"weight_dropout": 0.5, "backend": "autograd"}, {"callbacks": [GradientFlow(Path("flow.npz"))]}),
        ("--model.cuda_graph is false", {"cuda_graph": False}, {}),
        ("processes share", {}, {"strategy": "ddp"}),
        ("summed up", {}, {"accumulate_grad_batches": 2}),
        ("summed up", {}, {"callbacks": [GradientAccumulationScheduler({0: 1})]}),
        ("float16", {}, {"plugins": [MixedPrecision("16-mixed", "cuda", torch.amp.GradScaler("cpu"))]}),
        ("--model.recompute", {"recompute": 4}, {}),
        ("LooksAtGradients must see", {}, {"callbacks": [LooksAtGradients()]}),
    ],
)
def test_what_cannot_be_recorded_is_not(
    monkeypatch: pytest.MonkeyPatch, reason: str, of_model: dict[str, Any], of_trainer: dict[str, Any]
) -> None:
    model = LanguageModel(5, **of_model)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    model.trainer = pl.Trainer(accelerator="cpu", **silent, **of_trainer)
    assert reason_against(model) == (reason if reason.startswith("--model.cuda") else "they are made on the cpu")
    monkeypatch.setattr(Trained, "device", torch.device("cuda"), raising=False)
    assert reason in reason_against(model) and bool(reason) == bool(reason_against(model))
    monkeypatch.setattr(torch, "is_anomaly_enabled", lambda: True)
    assert reason_against(model)


@pytest.mark.parametrize(
    ("optimizers", "told"),
    [
        ([torch.optim.Adam([torch.zeros(2)])], ""),
        ([torch.optim.Adamax([torch.zeros(2)])], "the optimizer is not one that can be captured"),
        ([torch.optim.SGD([{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)]}])], "the optimizer is not one"),
        ([torch.optim.SGD([torch.zeros(2)]), torch.optim.SGD([torch.zeros(2)])], "the optimizer is not one"),
    ],
    ids=["one", "of another kind", "two groups", "two optimizers"],
)
def test_optimizers_that_cannot_be_recorded_are_not(
    monkeypatch: pytest.MonkeyPatch, optimizers: list[torch.optim.Optimizer], told: str
) -> None:
    model = LanguageModel(5)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    model.trainer = pl.Trainer(accelerator="cpu", **silent)
    model.trainer.strategy.optimizers = optimizers
    monkeypatch.setattr(Trained, "device", torch.device("cuda"), raising=False)
    assert reason_against(model).startswith(told) and bool(reason_against(model)) == bool(told)
    checkpoint = {"optimizer_states": [optimizer.state_dict() for optimizer in optimizers]}
    module.without_graphs(checkpoint, optimizers)


SHORT = {"max_steps": 9, "dropout": 0.2, "num_layers": 2}  # updates: 4 to warm up, one without a state; 5 replays
REFUSED = "operation not permitted when stream is capturing"


def make_fail(monkeypatch: pytest.MonkeyPatch, moment: str, number: int) -> None:
    """Lets a warm-up call, the capture or a replay raise, the first two after they have made their update."""
    run, record, counts = Graphed.run, Graphed.record, {"warm-up": 0, "replay": 0}

    def fail() -> None:
        raise RuntimeError(f"{REFUSED}\nCUDA kernel errors might be asynchronously reported")

    def failing_run(self: Graphed, *inputs: Any) -> Any:
        outputs = run(self, *inputs)
        counts["warm-up"] += 1
        if (moment, number) == ("warm-up", counts["warm-up"]):
            fail()
        return outputs

    def failing_record(self: Graphed) -> Callable[[], Any]:
        replay = record(self)

        def failing_replay() -> Any:
            counts["replay"] += 1
            if (moment, number) == ("replay", counts["replay"]):
                torch.rand(3)
                fail()
            return replay()

        if moment == "capture":
            replay()
            fail()
        return failing_replay

    monkeypatch.setattr(Graphed, "run", failing_run)
    monkeypatch.setattr(Graphed, "record", failing_record)


def lines_about_graphs(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if "CUDA graphs" in line]


@pytest.mark.parametrize("compares", [True, False])
@pytest.mark.parametrize(
    ("moment", "number"), [("warm-up", 1), ("warm-up", 3), ("capture", 1), ("replay", 1), ("replay", 2), ("replay", 4)]
)
def test_where_anything_fails_training_goes_on_with_the_same_bits(
    trained: Trainable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], moment: str, number: int,
    compares: bool,
) -> None:  # fmt: skip
    plain, of_plain = trained(AS_THEY_ARE, **SHORT)
    random = torch.get_rng_state()
    monkeypatch.setattr(module, "COMPARE", compares)
    make_fail(monkeypatch, moment, number)
    model, of_graphs = trained(RECORDED, **SHORT)
    (line,) = lines_about_graphs(capfd)
    assert f"RuntimeError: {REFUSED}; updates are made without them" in line and "asynchronously" not in line
    assert of_graphs.losses == of_plain.losses and same(model, plain)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_state_that_a_failed_update_created_is_undone(
    trained: Trainable, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    plain, of_plain = trained(AS_THEY_ARE, optimizer=optimizer, **SHORT)
    make_fail(monkeypatch, "warm-up", 1)
    model, of_graphs = trained(RECORDED, optimizer=optimizer, **SHORT)
    assert of_graphs.losses == of_plain.losses and same(model, plain)


def test_what_fails_without_graphs_too_is_raised(trained: Trainable, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: LanguageModel, *inputs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(LanguageModel, "read", read)
    with pytest.raises(RuntimeError, match="out of memory"):
        trained(RECORDED)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("fails", [1, 3, 5])
def test_where_eager_updates_of_this_kind_fail_too_lightning_makes_them(
    trained: Trainable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fails: int, optimizer: str
) -> None:
    """From the first on, or from one in the middle, with the optimizer's state and the schedule's rate of then. They
    fail when the weights are changed already."""
    kind = {**SHORT, "optimizer": optimizer, "warmup_steps": 5}
    plain, of_plain = trained(BY_LIGHTNING, **kind)
    random, update, models = torch.get_rng_state(), GraphedUpdates.update, []

    def failing(self: GraphedUpdates, *inputs: Any) -> Any:
        outputs = update(self, *inputs)
        models.append(self.model)
        if self.model.trainer.global_step + 1 >= fails:
            raise RuntimeError("the optimizer has no such option")
        return outputs

    monkeypatch.setattr(GraphedUpdates, "update", failing)
    model, of_graphs = trained(RECORDED, **kind)
    assert len(lines_about_graphs(capfd)) == 1 and model.graphed is None and models
    assert of_graphs.losses == of_plain.losses and same(model, plain)
    assert torch.equal(torch.get_rng_state(), random)


def test_an_eager_update_that_fails_later_is_an_error(trained: Trainable, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no state to go back to."""
    update = GraphedUpdates.update

    def failing(self: GraphedUpdates, *inputs: Any) -> Any:
        outputs = update(self, *inputs)
        if self.model.trainer.global_step + 1 >= 8:
            raise RuntimeError("illegal memory access")
        return outputs

    monkeypatch.setattr(GraphedUpdates, "update", failing)
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        trained(RECORDED, **SHORT)
    assert caught.value.__notes__ == ["To go without CUDA graphs: --model.cuda_graph false"]


def test_where_graphs_cannot_be_begun_training_goes_on(
    trained: Trainable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, of_plain = trained(BY_LIGHTNING, **SHORT)

    def fail(*given: Any) -> None:
        raise RuntimeError("no stream\nis left")

    monkeypatch.setattr(module, "Watch", fail)
    model, of_graphs = trained(RECORDED, **SHORT)
    assert of_graphs.losses == of_plain.losses and same(model, plain)


class FakeStream:
    def __init__(self, *of_a_device: Any) -> None:
        self.waited_for: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited_for.append(other)


class FakeGenerator:
    """The state of a generator: in a capture that has failed, it stays in capture mode."""

    def __init__(self) -> None:
        self.captures = False

    def clone_state(self) -> "FakeGenerator":
        return FakeGenerator()

    def graphsafe_set_state(self, state: "FakeGenerator") -> None:
        self.captures = state.captures


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """As much of torch.cuda as a capture needs, of tensors on the CPU: what was captured runs again when it is
    replayed. `fails` is None, or where an error comes: in the function, or at the end of the capture as well."""
    fake = SimpleNamespace(current=FakeStream(), generator=FakeGenerator(), pools=set(), fails=None, resets=0)
    default = fake.current

    class Graph:
        def replay(self) -> None:
            fake.replays()

        def reset(self) -> None:
            fake.resets += 1

    @contextmanager
    def stream(other: Any) -> Iterator[None]:
        before, fake.current = fake.current, other
        yield
        fake.current = before

    class Capture:
        """Leaves its stream, its pool and the generator as they are where its end fails, as torch.cuda.graph does."""

        def __init__(self, graph: Any, pool: Any, stream: Any) -> None:
            self.pool, self.stream = pool, stream

        def __enter__(self) -> None:
            fake.before, fake.current, fake.generator.captures = fake.current, self.stream, True
            fake.pools.add(self.pool)

        def __exit__(self, *error: Any) -> None:
            if fake.fails == "end":
                raise RuntimeError("operation failed due to a previous error during capture")
            fake.current, fake.generator.captures = fake.before, False
            fake.pools.remove(self.pool)

    def end_allocation(index: int, pool: Any) -> None:
        if pool not in fake.pools:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        fake.pools.remove(pool)

    for name, value in {
        "Stream": FakeStream, "CUDAGraph": Graph, "graph": Capture, "stream": stream,
        "graph_pool_handle": lambda: (0, 1), "current_stream": lambda *device: fake.current,
        "set_stream": lambda other: setattr(fake, "current", other),
        "default_generators": [fake.generator], "current_device": lambda: 0,
        "get_rng_state": lambda device: torch.zeros(16, dtype=torch.uint8), "set_rng_state": lambda state, device: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocation, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda index, pool: None, raising=False)
    fake.clean = lambda: fake.current is default and not fake.generator.captures and not fake.pools and fake.resets == 1
    return fake


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.parametrize("fails", [None, "function", "end"])
def test_a_capture_leaves_stream_pool_and_generator_as_they_were(
    fake_cuda: SimpleNamespace, fails: str | None, device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weight, fake_cuda.fails = torch.zeros(2), fails

    def function(x: Tensor) -> Tensor:
        if fake_cuda.generator.captures:
            if fails:
                raise RuntimeError("operation not permitted when stream is capturing")
            fake_cuda.replays = lambda: weight.add_(x)
            return weight
        return weight.add_(x)

    graphed = Graphed(function, torch.device(device), lambda: {"weight": weight})
    sums = [graphed(torch.tensor([k, 2.0 * k])).tolist() for k in range(1, 8)]
    assert sums == [[k * (k + 1) / 2, k * (k + 1)] for k in range(1, 8)]
    assert graphed.eager is bool(fails) and len(lines_about_graphs(capfd)) == bool(fails)
    assert fake_cuda.clean() if fails else fake_cuda.resets == 0


def forgets_a_weight(graphed: Graphed) -> Callable[[], Any]:
    weight = next(value for name, value in graphed.state().items() if name == "head.bias")  # type: ignore[misc]

    def replay() -> Any:
        before = weight.detach().clone()
        outputs = graphed.function(*graphed.inputs)
        with torch.no_grad():
            weight.copy_(before)
        return outputs

    return replay


def does_nothing(graphed: Graphed) -> Callable[[], Any]:
    outputs = graphed.function(*graphed.inputs)
    return lambda: outputs


def draws_other_numbers(graphed: Graphed) -> Callable[[], Any]:
    def replay() -> Any:
        after = torch.get_rng_state()
        torch.manual_seed(17)
        outputs = graphed.function(*graphed.inputs)
        torch.set_rng_state(after)
        return outputs

    return replay


def draws_once_more(graphed: Graphed) -> Callable[[], Any]:
    return lambda: (graphed.function(*graphed.inputs), torch.rand(1))[0]


def skips_a_count(graphed: Graphed) -> Callable[[], Any]:
    counts = [value for name, value in graphed.state().items() if name.startswith("step of")]  # type: ignore[misc]
    return lambda: (graphed.function(*graphed.inputs), [count.add_(1) for count in counts])[0]


def returns_another_loss(graphed: Graphed) -> Callable[[], Any]:
    def replay() -> Any:
        loss, *others = graphed.function(*graphed.inputs)
        return 1.2 * loss, *others

    return replay


def differs_in_the_last_bits(graphed: Graphed) -> Callable[[], Any]:
    def replay() -> Any:
        loss, *others = graphed.function(*graphed.inputs)
        return loss * (1 + 2**-20), *others

    return replay


@pytest.mark.parametrize(
    ("record", "told", "exact"),
    [
        (forgets_a_weight, "head.bias (relative difference 1.0e+00, above", False),
        (does_nothing, "the random state of the CPU", False),
        (draws_other_numbers, "the random state of the CPU", False),
        (draws_once_more, "the random state of the CPU", False),
        (skips_a_count, "step of weight 0 (relative difference 1.0e+00, above", False),
        (returns_another_loss, "output 1 (relative difference 2.0e-01, above", False),
        (differs_in_the_last_bits, "output 1 (1 of 1 entries)", True),
    ],
)
def test_a_first_replay_that_differs_ends_the_graphs_and_leaves_no_trace(
    trained: Trainable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], record: Any, told: str,
    exact: bool,
) -> None:  # fmt: skip
    plain, of_plain = trained(AS_THEY_ARE, **SHORT)
    random = torch.get_rng_state()
    monkeypatch.setattr(Graphed, "record", record)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: exact)
    model, of_graphs = trained(RECORDED, **SHORT)
    (line,) = lines_about_graphs(capfd)
    assert f"the first replay differs from an eager update in {told}" in line
    assert of_graphs.losses == of_plain.losses and same(model, plain)
    assert torch.equal(torch.get_rng_state(), random)


def test_rounding_in_another_order_is_no_difference_but_where_bits_are_promised(
    trained: Trainable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Graphed, "record", differs_in_the_last_bits)
    trained(RECORDED, **SHORT)
    assert not lines_about_graphs(capfd)


def test_the_comparison_changes_no_weight_and_no_random_number(
    trained: Trainable, taped: list[Tape], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here a replay runs no Python, and the dropout masks are those of the tape."""
    found = []
    for compares in (True, False):
        monkeypatch.setattr(module, "COMPARE", compares)
        model, seen = trained(RECORDED, optimizer="sgd", **SHORT)
        found.append((model, seen.losses, torch.get_rng_state()))
    (model, losses, random), (without, losses_without, random_without) = found
    assert same(model, without) and losses == losses_without and torch.equal(random, random_without)
    assert not lines_about_graphs(capfd) and len(taped) == 2


def test_a_run_on_a_cpu_has_no_graphs(path: Path) -> None:
    seen: list[Any] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *of_the_update: Any) -> None:
            seen.append(pl_module.graphed)

    data = TextDataModule(str(path), batch_size=4, window=8)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_steps=2, limit_val_batches=0, callbacks=[Look()], **silent)
    trainer.fit(LanguageModel(data.vocab_size, hidden_size=4), data)
    assert seen == [None, None]


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Options of a run, on a device whose sums are made in one order."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield {"accelerator": "gpu", "devices": 1, "hidden_size": 64, "embedding_size": 64, "deterministic": True}
    torch.use_deterministic_algorithms(False)


class WaitsForNothing(pl.Callback):
    """From the first replay on, while the first epoch lasts."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        replays = pl_module.graphed.graphed.replay is not None and trainer.current_epoch == 0
        torch.cuda.set_sync_debug_mode("error" if replays and len(batch.tokens) == 9 else "default")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *of_the_update: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("backend", ["autograd", "fused", "triton"])
@pytest.mark.parametrize("kind", [{"optimizer": name, **EVERYTHING} for name in OPTIMIZERS] + KINDS[6:7], ids=str)
def test_on_a_gpu_replays_wait_for_nothing_and_give_the_bits_of_updates_as_they_are(
    trained: Trainable, on_a_gpu: dict[str, Any], tmp_path: Path, kind: dict[str, Any], backend: str, precision: str
) -> None:
    options = {**on_a_gpu, **kind, "backend": backend, "precision": precision, "log_every_n_steps": 1000}
    plain, of_plain = trained(AS_THEY_ARE, GradientFlow(tmp_path / "plain.npz"), **options)
    model, of_graphs = trained(RECORDED, GradientFlow(tmp_path / "graphs.npz"), WaitsForNothing(), **options)
    assert of_graphs.losses == of_plain.losses and same(model, plain)
    ours, theirs = np.load(tmp_path / "graphs.npz"), np.load(tmp_path / "plain.npz")
    assert all((ours[name] == theirs[name]).all() for name in theirs.files)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_on_a_gpu_a_run_of_graphs_is_one_by_lightning(
    trained: Trainable, on_a_gpu: dict[str, Any], tmp_path: Path, optimizer: str
) -> None:
    """Goes on from its checkpoint, too, on a CPU."""
    options = {**on_a_gpu, "optimizer": optimizer, "learning_rate": 1e-3, "warmup_steps": 9, "gradient_clip_val": 0.3}
    _, of_plain = trained(BY_LIGHTNING, **options)
    _, of_graphs = trained(RECORDED, LastCheckpoint(tmp_path / "last.ckpt", 35), **options, max_steps=35)
    on_cpu = {"accelerator": "cpu", "devices": 1, "deterministic": False}
    _, of_rest = trained(BY_LIGHTNING, **options | on_cpu, ckpt_path=tmp_path / "last.ckpt")
    # Optimizers of another make round otherwise, some ULPs of 6e-8 an update, as sums on another device do. A gradient
    # that is nearly nothing may change its sign, and Adam's step there, of 1e-3, with it; the loss hardly notices.
    np.testing.assert_allclose(of_graphs.losses, of_plain.losses[:35], rtol=1e-3)
    np.testing.assert_allclose(of_rest.losses, of_plain.losses[35:], rtol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_an_update_that_is_not_finite_changes_no_weight(
    trained: Trainable, on_a_gpu: dict[str, Any], poisoned: tuple[Poison, list[LanguageModel]]
) -> None:
    poison, models = poisoned
    poison.factor = poison.factor.cuda()
    for optimizer in OPTIMIZERS:
        with pytest.raises(FloatingPointError, match=r"^update 7 was not made: the loss is nan, .* is 0.01\.$"):
            trained(RECORDED, poison, **on_a_gpu, optimizer=optimizer, weight_decay=0.1, log_every_n_steps=10)
        assert all(torch.equal(models[-1].state_dict()[name], of) for name, of in poison.weights.items()), optimizer


@pytest.mark.gpu
def test_on_a_gpu_updates_are_graphs_unless_something_forbids_it(
    path: Path, on_a_gpu: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    for asked, said in (
        (True, "updates are CUDA graphs\n"),
        (False, "updates are not CUDA graphs: --model.cuda_graph is"),
    ):
        data = TextDataModule(str(path), batch_size=4, window=8)
        trainer = pl.Trainer(accelerator="gpu", devices=1, max_steps=9, limit_val_batches=0, **silent)
        trainer.fit(LanguageModel(data.vocab_size, hidden_size=64, cuda_graph=asked), data)
        assert said in capfd.readouterr().err
        assert trainer.train_dataloader.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("moment", ["capture", "an error of CUDA"])
def test_on_a_gpu_a_capture_that_fails_leaves_the_bits_of_updates_as_they_are(
    trained: Trainable, on_a_gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    moment: str,
) -> None:  # fmt: skip
    """Dropout among them, whose generator was being captured. An error of CUDA invalidates the capture."""
    plain, of_plain = trained(AS_THEY_ARE, **SHORT, **on_a_gpu)
    if moment == "capture":
        make_fail(monkeypatch, moment, 1)
    else:
        read = LanguageModel.read

        def asks(self: LanguageModel, *inputs: Any) -> Any:
            loss, state = read(self, *inputs)
            if torch.cuda.is_current_stream_capturing():
                loss.item()
            return loss, state

        monkeypatch.setattr(LanguageModel, "read", asks)
    model, of_graphs = trained(RECORDED, **SHORT, **on_a_gpu)
    assert len([line for line in lines_about_graphs(capfd) if "the capture failed" in line]) == 1
    assert of_graphs.losses == of_plain.losses and same(model, plain)
    assert torch.rand(3, device="cuda").shape == (3,)
