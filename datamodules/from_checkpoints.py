"""Data modules from the checkpoints of their runs, read as data: nothing in the file is executed."""

from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch

from datamodules.vocabulary import vocabulary_of


class FromCheckpoints(pl.LightningDataModule):
    """A data module whose `load_from_checkpoint` reads plain data alone; Lightning's would run code of the file."""

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's takes URLs, too
        cls, checkpoint_path: str | Path, *_: Any, weights_only: bool | None = None, **options: Any
    ) -> Self:
        """The data module of a run. It reads its data from where the run had it; `options` replace the run's.

        Raises OSError or ValueError where the file is not a checkpoint of such a data module, or its data has changed.
        """
        try:
            content = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
            saved = content["datamodule_hyper_parameters"]
            state = content[cls.__name__]
            with vocabulary_of(state if state.get("inherited") else None):
                data = cls(**{name: value for name, value in saved.items() if not name.startswith("_")} | options)
        except (OSError, ValueError):
            raise
        except Exception as error:  # an unpickler stumbles over bytes that are no checkpoint in any way there is
            raise ValueError(f"{checkpoint_path}: is not a checkpoint with a {cls.__name__}: {error}") from None
        data.load_state_dict(state)
        return data
