"""Generation: repeatable, bounded in memory, exact about what the prompt leaves behind."""

import pytest
import torch

from models.language_model import LanguageModel
from models.sampling import generate

PROMPT = torch.tensor([3, 1, 2])


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(7, embedding_size=4, hidden_size=8).eval()


def test_a_seed_gives_the_same_text_and_another_seed_another(model: LanguageModel) -> None:
    first, again, other = (list(generate(model, PROMPT, 40, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 40 and set(first) <= set(range(7))


def test_temperature_zero_takes_the_likeliest_given_all_that_came_before(model: LanguageModel) -> None:
    written = list(generate(model, PROMPT, 6, temperature=0))
    for k, token in enumerate(written):
        logits, _ = model(torch.cat([PROMPT, torch.tensor(written[:k], dtype=torch.int64)])[:, None])
        assert token == logits[-1, 0].argmax()


def test_sampling_leaves_the_global_random_state_alone(model: LanguageModel) -> None:
    before = torch.get_rng_state()
    list(generate(model, PROMPT, 5))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize(
    ("prompt", "length", "temperature"), [(PROMPT[:0], 1, 1.0), (PROMPT, -1, 1.0), (PROMPT, 1, -0.5)]
)
def test_mistakes_are_said_before_anything_is_written(
    model: LanguageModel, prompt: torch.Tensor, length: int, temperature: float
) -> None:
    with pytest.raises(ValueError, match="prompt is empty|may be negative"):
        generate(model, prompt, length, temperature)
