"""All that the page shows, as NumPy arrays, numbers and strings."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.classifier import Classifier
from models.insight.connectivity import agreement, connectivity, sentence
from models.insight.flow import BINS, flow, over_epochs
from models.insight.gates import gate_statistics, gate_table
from models.insight.losses import symbol_losses
from models.insight.recording import record
from models.insight.units import activations, likeliest, properties, ranked
from models.language_model import LanguageModel

Say = Callable[[str], Any]


@torch.no_grad()
def analyse(
    model: LanguageModel,
    untrained: LanguageModel,
    ids: Tensor,
    symbols: list[str],
    *,
    compared: LanguageModel | None = None,
    flow_over_epochs: Any = None,
    tracked: dict[str, Any] | None = None,
    progress: Say = lambda what: None,
) -> dict[str, Any]:
    """What a language model does on a text, beside an untrained one of the same shape and maybe another trained one.

    Args:
        model, untrained, compared: ready to predict, of one vocabulary.
        ids: the text (T,), int64.
        symbols: how each of the V symbols is shown.
        flow_over_epochs: what `models.insight.flow.GradientFlow` wrote, an array for each name.
        tracked: properties of the text (T,) that units may follow, nan where one is not defined; if left out, those of
            `models.insight.units.properties` where every symbol is one character, else none.
        progress: is told what comes next.

    Raises ValueError for a text shorter than two symbols or with others than V, and for another vocabulary.
    """
    models = {"trained": model, "untrained": untrained} | ({"compared": compared} if compared else {})
    check(models, ids)
    ids, text = ids.to(model.device), [symbols[number] for number in ids.tolist()]
    if tracked is None:
        tracked = properties(text) if all(len(symbol) == 1 for symbol in text) else {}
    progress("reading the text")
    recordings = {name: record(of, ids[:, None]) for name, of in models.items()}
    recording = recordings["trained"]
    logits = model.head(recording.hidden[:, 0])  # (T, V)
    losses = [{"name": name} | symbol_losses(of, recordings[name], ids) for name, of in models.items()]
    progress("gradient flow")
    flows = [{"name": name} | flow(of, ids, recordings[name]) for name, of in models.items()]
    progress("connectivity")
    connected = connectivity(model, recording, ids)
    table = agreement(connected)
    progress("units")
    kind, values = activations(recording)
    untrained_values = activations(recordings["untrained"])[1]
    ranking = ranked(model, ids, values, untrained_values, tracked)
    progress("gates")
    looks = recording.weights
    return {
        "about": about(model) | {"length": len(ids), "compared": about(compared) if compared else None},
        "text": text,
        "losses": {"models": losses, "guess": math.log(len(symbols))},
        "flow": {
            "bins": BINS.numpy(),
            "models": flows,
            "over_epochs": None if flow_over_epochs is None else over_epochs(flow_over_epochs),
        },
        "connectivity": connected
        | {
            "predicted": [symbols[number] for number in connected["symbols"].tolist()],
            "agreement": table,
            "sentence": sentence(table),
        },
        "units": {
            "kind": kind,
            "activations": values.swapaxes(0, 1),
            "top": likeliest(logits, symbols),
            "ranked": ranking,
        },
        "gates": gate_statistics(recording),
        "gate_table": [{"model": name} | row for name, of in recordings.items() for row in gate_table(of)],
        "attention": None if looks is None else {"kind": "causal", "weights": looks[:, 0].cpu().numpy()},
    }


def check(models: dict[str, LanguageModel], ids: Tensor) -> None:
    sizes = {name: model.hparams["vocab_size"] for name, model in models.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"the models have vocabularies of different sizes: {told}; take models of one tokenizer")
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} symbols: give at least 2")
    if not 0 <= int(ids.min()) <= int(ids.max()) < sizes["trained"]:
        raise ValueError(f"the text has symbol {int(ids.max())}, but the model knows 0 to {sizes['trained'] - 1}")


def about(model: LanguageModel | Classifier) -> dict[str, Any]:
    """The architecture. What a model of this kind does not have is None."""
    names = {"cell": "cell", "layers": "num_layers", "hidden_size": "hidden_size", "vocab_size": "vocab_size"}
    more = ("embedding_size", "attention_span", "tied", "dropout")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        {name: model.hparams[option] for name, option in names.items()}
        | {name: model.hparams.get(name) for name in more}
        | {"parameters": parameters}
    )


def analyse_text(
    classifier: Classifier, ids: Tensor, symbols: list[str], labels: list[str] | None = None
) -> dict[str, Any]:
    """How a classifier reads a text (T,): how likely each class is, how much each symbol's states count for the pooled
    one, and the norm of ∂z_k/∂x_t of the likeliest class. Raises ValueError for a text without symbols."""
    if len(ids) == 0:
        raise ValueError("the text has no symbols: give at least 1")
    tokens = ids.to(classifier.device)[:, None]
    lengths = torch.tensor([len(ids)])
    logits, pooling, gradient = read_backwards(classifier, tokens, lengths)
    return {
        "about": about(classifier) | {"bidirectional": True, "length": len(ids)},
        "text": [symbols[number] for number in ids.tolist()],
        "labels": labels or [f"class {number}" for number in range(logits.shape[1])],
        "probabilities": logits[0].softmax(dim=-1).cpu().numpy(),
        "pooling": pooling[:, 0].cpu().numpy(),
        "gradient": gradient[:, 0].cpu().numpy(),
    }


def read_backwards(classifier: Classifier, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, C), the pooling's weights (T, B), and ‖∂z_k/∂x_t‖₂ (T, B) of each text's likeliest class, of a
    classifier that is ready to predict: zero beyond a text's length."""
    with torch.enable_grad():
        x = classifier.embedding(tokens).detach().requires_grad_()  # (T, B, E)
        h, _ = classifier.recurrent(x, lengths=lengths)
        pooled, weights = classifier.attention(h, lengths)
        logits = classifier.head(pooled)
        (gradients,) = torch.autograd.grad(logits.amax(dim=-1).sum(), x)
    return logits.detach(), weights.detach(), torch.linalg.vector_norm(gradients, dim=-1)
