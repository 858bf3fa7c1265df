"""A run that continues with another batch size or window. Its streams are cut elsewhere then, so that their states and
the number of batches of the epoch mean nothing: the epoch starts again, at the place of the text where it began.
"""

from typing import Any

SIZES = ("batch_size", "window")


def restart_epoch(checkpoint: dict[str, Any], data: Any) -> str:
    """Changes a checkpoint in place where the data is read in other batches than before.

    Args:
        checkpoint: what Lightning is about to restore.
        data: a data module, whose `moved(position, sizes)` is where an epoch that began at a batch begins now.

    Returns:
        What the user is told, or nothing where the batches are the same.
    """
    before = checkpoint.get("datamodule_hyper_parameters", {})
    changed = changed_sizes(before, data)
    if not changed:
        return ""
    loop = checkpoint["loops"]["fit_loop"]
    batches, epoch = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["current"]
    done = batches["current"]["ready"] if epoch["completed"] < epoch["ready"] else 0  # batches of the epoch
    for state in loop["state_dict"].get("combined_loader", []):
        state["position"] = data.moved(state["position"] - done, before)
    if done:
        # Lightning completes a batch that was being completed when the checkpoint was written: -1 becomes 0.
        batches["current"] = {name: count - done for name, count in batches["current"].items()}
        batches["is_last_batch"] = False
    if "recurrent_state" in checkpoint:
        checkpoint["recurrent_state"] = None
    values = ", ".join(f"{name} {before[name]} → {data.hparams[name]}" for name in changed)
    return f"{values}: the states of the streams are reset" + (", and the epoch starts again" if done else "")


def changed_sizes(before: dict[str, Any], data: Any) -> list[str]:
    """The names of the sizes that differ from those of a checkpoint's data."""
    now = getattr(data, "hparams", {})
    return [name for name in SIZES if name in before and name in now and before[name] != now[name]]
