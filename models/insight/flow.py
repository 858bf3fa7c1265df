"""How far gradients reach back: ∂L/∂h_t and ∂L/∂c_t of each layer, by how many steps t lies before the last one.

Bengio, Simard and Frasconi, *Learning long-term dependencies with gradient descent is difficult* (1994); Pascanu,
Mikolov and Bengio, *On the difficulty of training recurrent neural networks* (2013). That a largest singular value
exceeds 1 is necessary for gradients to grow, and not sufficient; below 1 is sufficient for them to vanish, where slopes
are at most 1. So the Jacobians themselves are measured. Letters: T steps, B batch, K steps looked back, n bins, H
hidden size.
"""

import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from complete_files import complete_file
from models.insight.recording import CANDIDATES, Layer, Recording, gates, jacobians, record
from models.language_model import LanguageModel

LOSSES = ("last", "every")  # of a window's steps
STEPS = 64  # looked back
BINS = torch.linspace(
    -20, 4, 49
)  # edges of log10|entry|, half a decade apart; what lies beyond counts in the last ones
SMALLEST = 1e-38  # stands for a norm of 0 in logarithms: where float32 ends
SEQUENCES = 16  # of a training batch that are followed
MOST = 2**16 - 1  # entries that a histogram of 16 bits can count
SHOWN = (0, 1, 2, 4, 8, 16, 32, 63)  # steps back whose histograms TensorBoard gets


@torch.enable_grad()
def state_gradients(model: LanguageModel, tokens: Tensor, state: Any, loss: str) -> tuple[Recording, list[Any]]:
    """What happens while the model reads all but the last of tokens (T + 1, B), and, by autograd, ∂L/∂ each layer's
    state after every step, (T, B, H) each, where c counts by itself and in h.

    L is the mean cross entropy of a sequence's steps ("every"), or that of its last one ("last"), in nats; each of the
    B sequences has its own.
    """
    recording = record(model, tokens[:-1], state)
    logits, targets = model.head(recording.hidden), tokens[1:]
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    states = [part for layer in recording.layers for state in layer.states for part in state]
    total = nats[-1].sum() if loss == "last" else nats.mean(dim=0).sum()
    found = iter(torch.autograd.grad(total, states, materialize_grads=True))
    gradients = []
    for layer in recording.layers:
        steps = [[next(found) for _ in layer.initial] for _ in layer.states]
        gradients.append(type(layer.initial)(*(torch.stack(parts) for parts in zip(*steps, strict=True))))
    return recording, gradients


def by_steps_back(gradients: Tensor) -> dict[str, Any]:
    """Of ∂L/∂ a state (T, B, H): for each number of steps back, the root of the mean over sequences of the squared
    norm, how many entries lie in each bin, and how many are zero."""
    gradients = gradients.flip(0)
    sizes = gradients.flatten(1).abs().log10()  # (T, B·H)
    n = len(BINS) - 1
    bins = ((sizes - BINS[0]) / (BINS[1] - BINS[0])).floor().clamp(0, n - 1)
    places = bins + n * torch.arange(len(sizes), device=sizes.device)[:, None]
    counts = torch.bincount(places[sizes > -torch.inf].long(), minlength=n * len(sizes))
    return {
        "norm": gradients.double().square().sum(-1).mean(-1).sqrt().cpu().numpy(),
        "histogram": counts.view(-1, n).cpu().numpy(),
        "zeros": (gradients == 0).flatten(1).sum(-1).cpu().numpy(),
    }


def weights_and_slopes(layers: list[Layer]) -> dict[str, list[float]]:
    """Of the block of W_hh that proposes what is new (an LSTM's W_hg, a GRU's W_hn): the modulus of its largest
    eigenvalue and its largest singular value; and the mean slope of the activation there."""
    found: dict[str, list[float]] = {"spectral_radius": [], "largest_singular_value": [], "mean_slope": []}
    for layer in layers:
        name = next(gate for gate in layer.cell.gates if gate in CANDIDATES)
        block = layer.cell.weight_hh.detach().split(layer.cell.hidden_size)[layer.cell.gates.index(name)].float()
        found["spectral_radius"].append(torch.linalg.eigvals(block).abs().max().item())
        found["largest_singular_value"].append(torch.linalg.matrix_norm(block, 2).item())
        found["mean_slope"].append(gates(layer)[name].slope.mean().item())
    return found


def flow(model: LanguageModel, tokens: Tensor, recording: Recording) -> dict[str, Any]:
    """A model's gradient flow on a text (T,) that it was recorded on: the text is cut, from its end, into windows of
    `STEPS`, each of which goes on from the state that the one before left; gradients stop at the borders."""
    K = min(STEPS, len(tokens) - 1)
    starts = window_starts(len(tokens) - 1, K, model.attention.span - 1 if model.attention else 0)
    windows = tokens[starts + torch.arange(K + 1)[:, None]]  # (K + 1, B)
    with torch.no_grad():
        state = recording.state_before(starts)
        norms = [norms_of(layer, K) for layer in recording.layers]
        found = weights_and_slopes(recording.layers)
    losses = {}
    for loss in LOSSES:
        entries = [
            {part: by_steps_back(of) for part, of in d._asdict().items()}
            for d in state_gradients(model, windows, state, loss)[1]
        ]
        layers = [{"c": None} | of | {"jacobian": norm} for of, norm in zip(entries, norms, strict=True)]
        losses[loss] = {"back": np.arange(K), "layers": layers}
    return {"cell": model.hparams["cell"], "losses": losses, **found}


def window_starts(T: int, K: int, remembered: int) -> Tensor:
    """Where windows of K steps begin, the last one at T − K, and the others where attention remembers enough."""
    starts = torch.arange(T - K, -1, -K)
    return starts[(starts >= remembered) | (starts == T - K)].flip(0)


def norms_of(layer: Layer, steps: int) -> np.ndarray[Any, Any]:
    """‖∂h_T/∂h_t‖₂ for t = T, T − 1, …"""
    return torch.linalg.matrix_norm(jacobians(layer, "h", steps), 2).cpu().numpy()


class GradientFlow(pl.Callback):
    """While a language model is trained, its gradient flow on the first window of every epoch, or of every so many
    updates, and on the last one: to a file, flow.npz, and as histograms to TensorBoard.

    What is measured is the loss that is trained on, as the model would predict, without dropout. It neither throws dice
    nor touches the model, its gradients or its state, so that a run gives the same bits with it and without. A run that
    goes on keeps the rows of before.
    """

    in_graphs = True  # what is done at every update is done on the device

    def __init__(self, path: Path, every_n_updates: int = 0) -> None:
        if every_n_updates < 0:
            raise ValueError(f"every_n_updates is {every_n_updates}: give a number of updates, or 0 for once an epoch")
        self.path, self.every_n_updates = path, every_n_updates
        self.rows: list[dict[str, Any]] = []
        self.updates = torch.zeros((), dtype=torch.int64)  # since the last row
        self.clipped = torch.zeros((), dtype=torch.int64)  # of these
        self.latest: Any = None  # window of full length, and the state that it was read from

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "updates": int(self.updates), "clipped": int(self.clipped)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.updates, self.clipped = (torch.tensor(state_dict[name]) for name in ("updates", "clipped"))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The file is that of the checkpoint, whatever became of it since."""
        if trainer.is_global_zero and self.rows:
            write(self.path, self.rows)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.updates, self.clipped = self.updates.to(pl_module.device), self.clipped.to(pl_module.device)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        tokens, fresh = batch
        if self.latest is None or len(tokens) >= len(self.latest[0]):  # an epoch may end with a shorter one
            self.latest = tokens, None if fresh else pl_module.state
        every = self.every_n_updates
        if trainer.global_step % every == 0 if every else batch_idx == 0:
            self.take(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Counts where the gradients are, in place: nobody waits for it, and a graph of the update does it too."""
        if limit := trainer.gradient_clip_val:
            largest = math.inf if trainer.gradient_clip_algorithm == "value" else 2.0
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.clipped += nn.utils.get_total_norm(gradients, largest) > limit
        self.updates += 1

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.latest is not None:
            self.take(trainer, pl_module)

    def take(self, trainer: Any, model: LanguageModel) -> None:
        """A row of this moment, in the place of those that another run made of it or of later ones."""
        if not trainer.is_global_zero:
            return
        per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        row = {"epochs": trainer.global_step / per_epoch, "clipped": int(self.clipped) / max(1, int(self.updates))}
        first = followed(model)
        tokens, state = tree_map(lambda part: None if part is None else part[:, :first], self.latest)
        row |= self.measured(trainer, model, tokens, state)
        self.rows = [*(before for before in self.rows if before["epochs"] < row["epochs"]), row]
        steps = max(len(of["layers.0.h"]) for of in self.rows)
        self.rows = [of for of in self.rows if len(of["layers.0.h"]) == steps]
        self.updates.zero_()
        self.clipped.zero_()
        write(self.path, self.rows)

    def measured(self, trainer: Any, model: LanguageModel, tokens: Tensor, state: Any) -> dict[str, Any]:
        """What a row holds of each layer, by its name in the file."""
        recording, gradients = state_gradients(model, tokens, state, model.hparams["loss"])
        row: dict[str, Any] = {}
        with torch.no_grad():
            whole = weights_and_slopes(recording.layers)
            for place, (layer, d) in enumerate(zip(recording.layers, gradients, strict=True)):
                name = f"layers.{place}."
                row |= {name + of: values[place] for of, values in whole.items()}
                for part, of_part in d._asdict().items():
                    found = by_steps_back(of_part)
                    row[name + part] = torch.from_numpy(np.log10(np.maximum(found["norm"], SMALLEST))).float()
                    if part == "h":
                        row[name + "histograms"] = torch.from_numpy(found["histogram"])
                    to_tensorboard(trainer, f"{name}{part}", of_part)
                if "f" in layer.cell.gates:
                    row[name + "mean_forget"] = gates(layer)["f"].y.mean().item()
        return row


def followed(model: LanguageModel) -> int:
    return max(1, min(SEQUENCES, MOST // model.hparams["hidden_size"]))


def to_tensorboard(trainer: Any, name: str, d: Tensor) -> None:
    """log10|∂L/∂ state| (T, B, H) of some steps, where there are entries that are not zero."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for back in (back for back in SHOWN if back < len(d)):
                entries = d[-1 - back]
                if (sizes := entries[entries != 0].abs().log10()).numel():
                    logger.experiment.add_histogram(f"flow.{name}/{back:02} back", sizes, trainer.global_step)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """One array for each name, with an entry a row. The file is complete at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    arrays |= {name: of.astype(np.uint16) for name, of in arrays.items() if name.endswith("histograms")}
    with complete_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_flow(path: Path) -> dict[str, Any] | None:
    """The arrays of a file of `GradientFlow`; None where it is not one, or is damaged."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error):
        return None  # a file of one array has no names
    rows = len(arrays.get("epochs", ()))
    per_layer = {name for name in arrays if name.startswith("layers.")}
    needed = {"epochs", "clipped", *(f"layers.0.{name}" for name in ("h", "histograms", "largest_singular_value"))}
    whole = all(of.dtype.kind in "fiu" and of.ndim and len(of) == rows for of in arrays.values())
    named = all(re.fullmatch(r"layers\.[0-9]{1,6}\.[a-z_]+", name) for name in per_layer)
    return arrays if rows and whole and named and needed <= arrays.keys() else None


def over_epochs(arrays: Any) -> dict[str, Any]:
    """What a file of `GradientFlow` says, layer by layer; what a cell does not have is None."""
    places = {int(name.split(".")[1]) for name in arrays if name.startswith("layers.")}
    names = ["h", "c", "histograms", "spectral_radius", "largest_singular_value", "mean_slope", "mean_forget"]
    layers = [
        {name: arrays[f"layers.{place}.{name}"] if f"layers.{place}.{name}" in arrays else None for name in names}
        for place in sorted(places)
    ]
    return {"epochs": arrays["epochs"], "layers": layers, "clipped": arrays["clipped"]}
