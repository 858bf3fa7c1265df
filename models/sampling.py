"""Text out of a trained language model, one symbol at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.language_model import LanguageModel


def generate(
    model: LanguageModel, prompt: Tensor, length: int, temperature: float = 1.0, seed: int = 0
) -> Iterator[int]:
    """Symbols that go on from the prompt, each drawn from the model's prediction after all before it.

        P(token) ∝ exp(z_token / temperature)

    Args:
        prompt: (T,), int64.
        length: how many symbols to draw; the state is carried, so that each costs the same however long the text grows.
        temperature: below 1 the likely symbols become likelier; 0 always takes the likeliest.
        seed: of a random generator of its own: sampling does not disturb training, nor the reverse.

    Raises ValueError for an empty prompt and for a negative temperature or length.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty: give at least one symbol that the model knows")
    if temperature < 0 or length < 0:
        raise ValueError(f"temperature is {temperature} and length {length}: neither may be negative")
    return continuation(model, prompt, length, temperature, torch.Generator().manual_seed(seed))


@torch.inference_mode()
def continuation(
    model: LanguageModel, prompt: Tensor, length: int, temperature: float, dice: torch.Generator
) -> Iterator[int]:
    tokens, state = prompt[:, None], None  # (T, B = 1)
    for _ in range(length):
        logits, state = model(tokens.to(model.device), state)
        tokens = draw(logits[-1, 0], temperature, dice).view(1, 1)
        yield int(tokens)


def draw(logits: Tensor, temperature: float, dice: torch.Generator) -> Tensor:
    """One symbol from logits (V), on the CPU, so that a seed gives the same text on every device."""
    logits = logits.float().cpu()
    if temperature == 0:
        return logits.argmax()
    return torch.multinomial(torch.softmax(logits / temperature, dim=0), 1, generator=dice)
