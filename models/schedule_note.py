"""Prints at which learning rate a run goes on whose schedule had come to its end."""

from typing import Any

import pytorch_lightning as pl


class ScheduleNote(pl.Callback):
    """One line at the start of a training that continues a run whose cosine schedule has reached 0."""

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        options, group = pl_module.hparams, trainer.optimizers[0].param_groups[0]
        ended = trainer.global_step > 0 and float(group["lr"]) == 0 and options["learning_rate"] > 0
        if ended and options["schedule"] == "cosine" and trainer.is_global_zero:
            share = pl_module.learning_rate_factor(trainer.global_step)  # type: ignore[operator]
            print(
                f"the cosine schedule had ended: training continues at {share:.1%} of --model.learning_rate, and falls "
                "to 0 again; for more, add --model.schedule constant --model.learning_rate "
                f"{options['learning_rate'] / 4:g}"
            )
