"""How many updates a run will make, and what to change where they are few."""

import math
from typing import Any

FEW = 500  # updates; a model that made fewer has seen too little to be useful


def run_length(trainer: Any) -> str:
    """The number of updates of a run, before it starts."""
    updates = trainer.estimated_stepping_batches
    return counted(updates) if math.isfinite(updates) else "updates until it is stopped"


def advice(trainer: Any) -> str | None:
    """A line on what makes more updates, where the number of epochs leaves only few."""
    updates, epochs = trainer.estimated_stepping_batches, trainer.max_epochs
    if updates >= FEW or trainer.max_steps != -1 or not epochs or not updates:
        return None
    needed = math.ceil(FEW * epochs / updates)
    return f"no more than {counted(updates)} will be made: --trainer.max_epochs {needed} makes {FEW} of them"


def counted(updates: float) -> str:
    return f"{updates:,} {'update' if updates == 1 else 'updates'}"
