"""How many updates a run will make, and advice where they are few."""

import math
from types import SimpleNamespace

import pytest

from models.run_length import advice, run_length


@pytest.mark.parametrize(
    ("updates", "max_epochs", "max_steps", "length", "message"),
    [
        (85, 5, -1, "85 updates", "no more than 85 updates will be made: --trainer.max_epochs 30 makes 500 of them"),
        (1, 1, -1, "1 update", "no more than 1 update will be made: --trainer.max_epochs 500 makes 500 of them"),
        (500, 5, -1, "500 updates", None),
        (10_000, 5, -1, "10,000 updates", None),
        (85, 5, 85, "85 updates", None),
        (math.inf, -1, -1, "updates until it is stopped", None),
        (0, 0, -1, "0 updates", None),
    ],
)
def test_few_updates_are_said_with_what_makes_more(
    updates: float, max_epochs: int, max_steps: int, length: str, message: str | None
) -> None:
    trainer = SimpleNamespace(estimated_stepping_batches=updates, max_epochs=max_epochs, max_steps=max_steps)
    assert run_length(trainer) == length and advice(trainer) == message
