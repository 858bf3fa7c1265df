"""The part of a run's config that its checkpoint carries, so that the run can go on without its YAML file.

It is data: numbers, booleans, None and single words. A path, a class, an address or a device never comes from a
checkpoint, because whoever wrote the file would choose what is read or run. These are given again on the command line.
"""

import json
import shlex
from typing import Any

from models.checkpoint_rules import (
    MAX_WHOLE,
    Rule,
    either,
    fields,
    flag,
    keyed,
    listing,
    matching,
    nothing,
    number,
    one_of,
    parameters_of,
    text,
    whole,
)

WORD = matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")  # no dot, slash, colon, brace or space: nothing to interpret
NAME = matching(r"[a-z][a-z0-9_]{0,60}")
TRAINER: dict[str, Rule] = {
    **dict.fromkeys(("max_epochs", "min_epochs", "min_steps", "check_val_every_n_epoch", "num_sanity_val_steps",
                     "log_every_n_steps"), either(nothing, whole(-1))),
    **dict.fromkeys(("max_steps", "accumulate_grad_batches", "reload_dataloaders_every_n_epochs"), whole(-1)),
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches",
                     "val_check_interval"), either(nothing, whole(), number(0, 1))),
    "overfit_batches": either(whole(), number(0, 1)),
    **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "benchmark"),
                    either(nothing, flag)),
    **dict.fromkeys(("inference_mode", "use_distributed_sampler", "detect_anomaly", "barebones", "sync_batchnorm",
                     "enable_autolog_hparams"), flag),
    "precision": one_of(None, 64, 32, 16, "64", "32", "16", "bf16", "16-true", "16-mixed", "bf16-true", "bf16-mixed",
                        "32-true", "64-true"),
    "max_time": either(nothing, matching(r"[0-9]{1,6}(:[0-9]{1,2}){3}")),
    "fast_dev_run": either(flag, whole()),
    "gradient_clip_val": either(nothing, number(0)),
    "gradient_clip_algorithm": one_of(None, "norm", "value"),
    "deterministic": one_of(None, False, True, "warn"),
}  # fmt: skip
GIVEN_AGAIN = {  # on the command line, with the values that need not be
    "accelerator": "auto", "strategy": "auto", "devices": "auto", "num_nodes": 1, "logger": None, "callbacks": None,
    "profiler": None, "plugins": None, "model_registry": None,
}  # fmt: skip
RUN: dict[str, Rule] = {
    "task": WORD,
    "seed_everything": either(flag, whole()),
    "save_every": whole(1),
}
VALUE = either(nothing, flag, whole(-MAX_WHOLE), number(), WORD, listing(number(), 10_000))
NEW = fields(
    {},
    RUN
    | {
        "trainer": fields({}, TRAINER),
        "model": keyed(NAME, VALUE),
        "data": keyed(NAME, VALUE),
        "again": listing(matching(r"(trainer|data|model)\.[a-z][a-z0-9_]{0,60}"), 100),
    },
)


def check_config(value: Any, place: str) -> None:
    """A text is of a version before format 1: it is not parsed, and the run needs its --config."""
    (text(1 << 20) if isinstance(value, str) else NEW)(value, place)


def carried(config: dict[str, Any], model: type[Any], data: type[Any]) -> tuple[dict[str, Any], list[str]]:
    """What a run's checkpoints carry of its config, and the flags that a command for going on needs besides."""
    parts = {"trainer": (TRAINER, GIVEN_AGAIN), "model": of_arguments(model), "data": of_arguments(data)}
    found: dict[str, Any] = {name: config[name] for name, rule in RUN.items() if follows(rule, config.get(name))}
    again: dict[str, Any] = {}
    for part, (rules, defaults) in parts.items():
        found[part] = {}
        for name, value in (config.get(part) or {}).items():
            if name in rules and follows(rules[name], value):
                found[part][name] = value
            elif name != "default_root_dir" and value != defaults.get(name):
                again[f"{part}.{name}"] = value
    flags = [argument for name, value in again.items() for argument in (f"--{name}", as_argument(value))]
    return found | {"again": sorted(again)}, flags


def of_arguments(kind: type[Any]) -> tuple[dict[str, Rule], dict[str, Any]]:
    """A rule for each argument of a class that is no path, and the defaults. Texts are single words."""
    rules, defaults = parameters_of([kind], WORD)
    return {name: rule for name, rule in rules.items() if name.split("_")[-1] != "path"}, defaults


def follows(rule: Rule, value: Any) -> bool:
    try:
        rule(value, "")
    except ValueError:
        return False
    return True


def as_argument(value: Any) -> str:
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def config_of(
    checkpoint: dict[str, Any], path: str, arguments: list[str], needed: tuple[str, ...] = ("trainer", "model", "data")
) -> dict[str, Any]:
    """The config that a checkpoint carries, for a command line with these arguments.

    Raises ValueError where it has none, or where the run had options that a checkpoint does not carry and that the
    arguments do not have, as far as they are of the parts that are `needed`.
    """
    config = checkpoint.get("config")
    if not isinstance(config, dict) or not config.get("trainer"):
        raise ValueError(f"{path}: the checkpoint carries no config: give that of its run with --config")
    again = [name for name in config.get("again", []) if name.split(".")[0] in needed]
    missing = [f"--{name}" for name in again if not is_given(name, arguments)]
    if missing:
        raise ValueError(
            f"{path}: its run was started with {', '.join(missing)}, which a checkpoint does not carry: give "
            f"{'it' if len(missing) == 1 else 'them'} again, or the run's config.yaml with --config if you trust it"
        )
    return {name: value for name, value in config.items() if name != "again"}


def is_given(name: str, arguments: list[str]) -> bool:
    """Also as --trainer.callbacks+=EarlyStopping, or by a part as --trainer.callbacks.patience 3."""
    return any(argument.startswith(f"--{name}{end}") for argument in arguments for end in ("=", "+", ".")) or (
        f"--{name}" in arguments
    )


def as_text(config: dict[str, Any], model: type[Any], data: type[Any]) -> str:
    """A carried config for Lightning's command line. Raises ValueError for an option that model or data do not have."""
    for part, kind in (("model", model), ("data", data)):
        fields({}, of_arguments(kind)[0])(config.get(part, {}), f"the checkpoint's config: {part}")
    return json.dumps(config, indent=1)
