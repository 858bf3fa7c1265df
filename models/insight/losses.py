"""What each symbol of a text cost a model: the loss −ln p, where p is the probability that the model gave it."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.insight.recording import Recording
from models.language_model import LanguageModel


@torch.no_grad()
def symbol_losses(model: LanguageModel, recording: Recording, ids: Tensor) -> dict[str, Any]:
    """Of a text (T,) that was recorded alone: `nats` (T,), nan for the first symbol, which nothing predicts; their
    `mean`; and `right`, the share of symbols that the model found likeliest."""
    logits = model.head(recording.hidden[:-1, 0])  # (T − 1, V)
    nats = F.cross_entropy(logits, ids[1:], reduction="none")
    return {
        "cell": model.hparams["cell"],
        "nats": np.append(np.float32(np.nan), nats.float().cpu().numpy()),
        "mean": float(nats.double().mean()),
        "right": float((logits.argmax(dim=-1) == ids[1:]).double().mean()),
    }
