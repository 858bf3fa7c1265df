"""The language model as one writes it with torch's own layers."""

from typing import Any

from torch import Tensor

from models.language_model import LanguageModel


class TorchLanguageModel(LanguageModel):
    """The same, with an `nn.RNN`, `nn.GRU` or `nn.LSTM` as `recurrent`."""

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        hidden, after = self.recurrent(self.embedding(tokens), state)  # type: ignore[misc]  # no one-hot input here
        return self.head(hidden), after


def with_torch_layers(model: LanguageModel) -> TorchLanguageModel:
    """With the same weights, in tensors of its own; its updates are Lightning's. Raises ValueError as
    `Recurrent.to_torch` does."""
    peer = TorchLanguageModel(**dict(model.hparams) | {"cuda_graph": False})
    peer.load_state_dict(model.state_dict())
    peer.recurrent = peer.recurrent.to_torch()
    return peer
