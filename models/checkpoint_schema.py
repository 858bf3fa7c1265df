"""What a checkpoint may hold: a rule for each entry. `check` applies them before anything is built or restored from it.

A checkpoint may come from anyone. Names, shapes, dtypes and sizes are compared with each other, and with the tensors
that are there, so that nothing is created that the file does not have.
"""

import json
import random
from typing import Any

import torch
from torch import Tensor

from models.checkpoint_config import check_config
from models.checkpoint_rules import (
    MAX_TEXT,
    Rule,
    any_number,
    broken,
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
    plain,
    scalar,
    shortened,
    tensor,
    text,
    whole,
)
from models.checkpoint_shapes import STATES, Shape, shapes, trained

FORMAT = 1
MAX_PROCESSES = 4096
MAX_PATH = 1 << 16
MODELS: list[type[Any]] = []  # classes whose checkpoints can be read, see `register`

RATE = number(0)
COUNTS = fields({"ready": whole(), "completed": whole()}, {"started": whole(), "processed": whole()})
PROGRESS = fields({"total": COUNTS, "current": COUNTS}, {"is_last_batch": flag})
OPTIMIZER_PROGRESS = fields({"optimizer": fields({"step": PROGRESS, "zero_grad": PROGRESS})})
EVALUATION = fields({"state_dict": fields({}), "batch_progress": PROGRESS})
POSITIONS = listing(keyed(text(), either(whole(), scalar)), MAX_PROCESSES)
LOOPS = fields(
    {
        "fit_loop": fields(
            {
                "state_dict": fields({}, {"combined_loader": POSITIONS}),
                "epoch_loop.state_dict": fields({"_batches_that_stepped": whole()}),
                "epoch_loop.batch_progress": PROGRESS,
                "epoch_loop.scheduler_progress": PROGRESS,
                "epoch_loop.automatic_optimization.state_dict": fields({}),
                "epoch_loop.automatic_optimization.optim_progress": OPTIMIZER_PROGRESS,
                "epoch_loop.manual_optimization.state_dict": fields({}),
                "epoch_loop.manual_optimization.optim_step_progress": PROGRESS,
                "epoch_loop.val_loop.state_dict": fields({}),
                "epoch_loop.val_loop.batch_progress": PROGRESS,
                "epoch_progress": PROGRESS,
            }
        )
    },
    {"validate_loop": EVALUATION, "test_loop": EVALUATION, "predict_loop": EVALUATION},
)
ADAM = {"betas": listing(number(0, 1), 2, 2), "eps": RATE, "amsgrad": one_of(False)}
OF_OPTIMIZERS: dict[str, tuple[dict[str, Rule], tuple[str, ...]]] = {  # options, and tensors like the parameter
    "sgd": (
        {"momentum": one_of(0, 0.0), "dampening": one_of(0, 0.0), "nesterov": one_of(False)},
        (),
    ),
    "adagrad": ({"lr_decay": RATE, "eps": RATE, "initial_accumulator_value": RATE}, ("sum",)),
    "rmsprop": (
        {"momentum": one_of(0, 0.0), "alpha": number(0, 1), "eps": RATE, "centered": one_of(False)},
        ("square_avg",),
    ),
    "adam": (ADAM | {"decoupled_weight_decay": one_of(False)}, ("exp_avg", "exp_avg_sq")),
    "adamw": (ADAM | {"decoupled_weight_decay": one_of(True)}, ("exp_avg", "exp_avg_sq")),
}
SWITCH = one_of(None, False, True)
LAMBDA_SCHEDULE = fields(
    {
        "base_lrs": listing(RATE, 1, 1),
        "last_epoch": whole(),
        "_step_count": whole(),
        "_last_lr": listing(RATE, 1, 1),
        "lr_lambdas": listing(either(nothing, fields({})), 1, 1),
    },
    {"_is_initial": flag, "_get_lr_called_within_step": flag},
)
PLATEAU_SCHEDULE = fields(
    {
        "factor": number(0, 1),
        "patience": whole(),
        "cooldown": whole(),
        "eps": RATE,
        "last_epoch": whole(),
        "_last_lr": listing(RATE, 1, 1),
        "mode_worse": number(infinite=True),
        "mode": one_of("min"),
        "threshold": RATE,
        "threshold_mode": one_of("rel"),
        "best": either(number(infinite=True), tensor()),
        "cooldown_counter": whole(),
        "num_bad_epochs": whole(),
        "min_lrs": listing(RATE, 1, 1),
    },
    {"default_min_lr": RATE},
)
GRADIENT_FLOW = fields(
    {
        "rows": listing(
            keyed(text(), either(any_number, tensor(None, finite=False), tensor(None, None, finite=False))), 100_000
        ),
        "updates": whole(),
        "clipped": whole(),
    },
    others=scalar,
)
SCORE = either(nothing, tensor(finite=False))
PATHS = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")
MODEL_CHECKPOINT = fields(
    {
        "monitor": either(nothing, text()),
        "best_model_score": SCORE,
        "best_model_path": text(MAX_PATH),
        "current_score": SCORE,
        "dirpath": either(nothing, text(MAX_PATH)),
        "best_k_models": keyed(text(MAX_PATH), SCORE),
        "kth_best_model_path": text(MAX_PATH),
        "kth_value": SCORE,
        "last_model_path": text(MAX_PATH),
    },
    others=scalar,
)
OF_CALLBACKS: dict[str, Rule] = {
    "Throughput": fields({"tokens": whole(), "seconds": RATE}, others=scalar),
    "GradientFlow": GRADIENT_FLOW,
    "Samples": fields({"size": whole()}),
    "BestCheckpoint": MODEL_CHECKPOINT,
    "ModelCheckpoint": MODEL_CHECKPOINT,
    "EarlyStopping": fields(
        {"wait_count": whole(), "stopped_epoch": whole(), "best_score": tensor(finite=False), "patience": whole()},
        others=scalar,
    ),
    "Timer": fields({}, {"time_elapsed": keyed(text(), RATE)}),
}
SPLIT = fields(
    {"type": one_of("Split"), "pattern": fields({"Regex": text(1000)}), "behavior": one_of("Isolated"),
     "invert": one_of(False)}
)  # fmt: skip
BYTE_LEVEL = fields({"type": one_of("ByteLevel")}, others=flag)
SEQUENCE = fields({"type": one_of("Sequence"), "pretokenizers": listing(either(SPLIT, BYTE_LEVEL), 2)})
HUGGING_FACE = fields(
    {
        "model": fields(
            {"type": one_of("WordLevel", "BPE"), "vocab": keyed(text(1 << 20), whole())},
            {"merges": listing(listing(text(1 << 20), 2, 2), 1 << 24)},
            others=scalar,
        ),
        "pre_tokenizer": either(SPLIT, SEQUENCE),
    },
    {"version": text(), "added_tokens": listing(nothing, 0)},
    others=nothing,
)


def register(model: type[Any]) -> None:
    """Makes the checkpoints of a class known. Its options are the arguments of its constructor."""
    MODELS.append(model)


def check(checkpoint: Any) -> None:
    """Raises ValueError, with the place, unless every entry of a checkpoint is what this project writes."""
    if type(checkpoint) is not dict or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise ValueError("it has no weights and options of a model")
    version = checkpoint.get("format", FORMAT)
    if type(version) is not int or version != FORMAT:
        raise ValueError(f"its format is {version!r:.60}, and this version of the project reads {FORMAT}")
    ENTRIES(checkpoint, "")
    options = checked_options(checkpoint["hyper_parameters"])
    expected = shapes(options, len(checkpoint["state_dict"]))
    dtype = check_weights_are(checkpoint["state_dict"], expected, "state_dict")
    if "current_model_state" in checkpoint:
        check_weights_are(checkpoint["current_model_state"], expected, "current_model_state")
    names = trained(options, expected)
    for state in checkpoint.get("optimizer_states", []):
        check_optimizer(state, options["optimizer"], [(name, expected[name]) for name in names], dtype)
    schedule = PLATEAU_SCHEDULE if options["schedule"] == "plateau" else LAMBDA_SCHEDULE
    listing(schedule, 1)(checkpoint.get("lr_schedulers", []), "lr_schedulers")
    check_callbacks(checkpoint.get("callbacks", {}), options)
    if "num_classes" not in options:
        batch_size = checkpoint.get("datamodule_hyper_parameters", {}).get("batch_size")
        check_recurrent_state(checkpoint.get("recurrent_state"), options, batch_size)
    check_symbols(checkpoint, options)


def checked_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of a model, with the defaults of those that a checkpoint does not have."""
    rules, defaults = parameters_of([model for model in MODELS if is_classifier(model) == ("num_classes" in given)])
    fields({name: rule for name, rule in rules.items() if name not in defaults}, rules)(given, "hyper_parameters")
    return defaults | given


def is_classifier(model: type[Any]) -> bool:
    return "num_classes" in parameters_of([model])[0]


def check_weights_are(weights: dict[str, Tensor], expected: dict[str, Shape], place: str) -> torch.dtype:
    """The dtype of all weights, whose names and shapes are the expected ones."""
    fields({name: tensor(*shape) for name, shape in expected.items()})(weights, place)
    dtypes = {weight.dtype for weight in weights.values()}
    if len(dtypes) != 1 or not next(iter(dtypes)).is_floating_point:
        raise ValueError(f"{place} is of the dtypes {', '.join(sorted(map(str, dtypes)))}")
    return dtypes.pop()


def check_optimizer(
    state: dict[str, Any], optimizer: str, parameters: list[tuple[str, Shape]], dtype: torch.dtype
) -> None:
    """Names, shapes and dtypes: torch's fused optimizers write as much as the parameter has, wherever that leads."""
    options, moments = OF_OPTIMIZERS[optimizer]
    numbers = list(range(len(parameters)))
    known = {"lr": RATE, "weight_decay": RATE, "params": listing(whole(0, len(numbers)), len(numbers), len(numbers))}
    switches = {"maximize": one_of(False), "differentiable": one_of(False), "capturable": one_of(False)}
    group = fields(known | options, switches | {"foreach": SWITCH, "fused": SWITCH, "initial_lr": RATE})
    fields({"state": plain, "param_groups": listing(group, 1, 1)})(state, "optimizer_states")
    if list(state["param_groups"][0]["params"]) != numbers:
        raise ValueError(f"optimizer_states has other parameters than 0 to {len(numbers) - 1}")
    rules: dict[Any, Rule] = {}
    for index, (_, shape) in enumerate(parameters):
        of_parameter = {name: tensor(*shape, dtype=dtype) for name in moments}
        step = {"step": tensor(dtype=torch.float32)} if moments else {}
        rules[index] = fields(of_parameter | step, {"momentum_buffer": nothing})
    fields({}, rules)(state["state"], "optimizer_states.state")


def check_callbacks(states: dict[str, Any], options: dict[str, Any]) -> None:
    for name, state in states.items():
        place = f"callbacks.{shortened(name)}"
        kind = name.split("{")[0]  # Lightning adds arguments of the callback
        if kind in OF_CALLBACKS:
            OF_CALLBACKS[kind](state, place)
        elif restores_paths(state):
            MODEL_CHECKPOINT(state, place)
    rows = states.get("GradientFlow", {}).get("rows", [])
    needed = {"epochs", "clipped", *(f"layers.{layer}.h" for layer in range(options["num_layers"]) if rows)}
    for row in rows:
        if not needed <= row.keys() or row.keys() != rows[0].keys() or f"layers.{options['num_layers']}.h" in row:
            raise ValueError("callbacks.GradientFlow.rows are of another model")
        for column, value in row.items():
            first = rows[0][column]
            if (
                isinstance(value, Tensor) != isinstance(first, Tensor)
                or isinstance(value, Tensor)
                and (value.dtype != first.dtype or value.shape[1:] != first.shape[1:])
            ):
                raise ValueError(f"callbacks.GradientFlow.rows differ in {shortened(column)}")


def restores_paths(state: Any) -> bool:
    """Whether a callback's state is that of a ModelCheckpoint, or of a class derived from it."""
    return type(state) is dict and not {*PATHS, "best_k_models"}.isdisjoint(state)


def check_recurrent_state(state: Any, options: dict[str, Any], batch_size: Any) -> None:
    """None before the first update; else h, or h and c, (L, B, H); with attention, also what it remembers (M, B, H)."""
    if state is None:
        return
    H, B = options["hidden_size"], batch_size if type(batch_size) is int else None
    count = STATES[options["cell"]]
    of_cells = listing(tensor(options["num_layers"], B, H), count, count)
    place = "recurrent_state"
    if options["attention_span"]:
        if type(state) is not list or len(state) != 2:
            raise broken(state, place, "the state of layers and of attention")
        of_cells(state[0], place)
        tensor(None, B, H)(state[1], place)
        tensors = [*state[0], state[1]]
    else:
        of_cells(state, place)
        tensors = list(state)
    if len({part.shape[1] for part in tensors}) != 1 or len({part.dtype for part in tensors}) != 1:
        raise ValueError(f"{place} is of different numbers of streams")


def check_random_state(value: Any, place: str) -> None:
    """Of the CPU, and of each GPU."""
    listing(tensor(None, dtype=torch.uint8), 1025, 1)(value, place)
    try:
        torch.Generator().set_state(value[0].clone())
    except RuntimeError:
        raise ValueError(f"{place} is no state of torch's random number generator") from None
    if any(len(state) > 4096 for state in value[1:]):
        raise ValueError(f"{place} is no state of a GPU's random number generator")


def check_other_random_states(value: Any, place: str) -> None:
    """Of Python and NumPy. NumPy itself does not check the position."""
    listing(plain, 2, 2)(value, place)
    of_python, of_numpy = value
    word = whole(0, 2**32 - 1)
    try:
        random.Random().setstate(of_python)
    except (ValueError, TypeError, OverflowError, LookupError):
        raise ValueError(f"{place}[0] is no state of Python's random number generator") from None
    fields(
        {
            "bit_generator": one_of("MT19937"),
            "state": fields({"key": listing(word, 624, 624), "pos": whole(0, 624)}),
            "has_gauss": whole(0, 1),
            "gauss": number(),
        }
    )(of_numpy, f"{place}[1]")


def check_symbols(checkpoint: dict[str, Any], options: dict[str, Any]) -> None:
    """The tokenizer has as many symbols as the model, the encoder of a classifier also as many classes."""
    if "num_classes" in options:
        encoder = checkpoint.get("LabelledDataModule", {}).get("encoder")
        found = (
            {} if encoder is None else {"vocab_size": 1 + len(encoder["words"]), "num_classes": len(encoder["labels"])}
        )
    else:
        tokenizer = checkpoint.get("TextDataModule", {}).get("tokenizer")
        found = {} if tokenizer is None else {"vocab_size": vocabulary_size(tokenizer)}
    for name, count in found.items():
        if count != options[name]:
            raise ValueError(f"its vocabulary has {name} {count:,}, but its model {options[name]:,}")


def vocabulary_size(tokenizer: dict[str, Any]) -> int:
    level, place = tokenizer["level"], "TextDataModule.tokenizer"
    fields({"level": text()} | {"character": {"characters": plain}, "byte": {}}.get(level, {"json": plain}))(
        tokenizer, place
    )
    if level == "byte":
        return 256
    if level == "character":
        text(1 << 21)(tokenizer.get("characters"), f"{place}.characters")
        characters = tokenizer["characters"]
        if len(set(characters)) != len(characters):
            raise ValueError(f"{place}.characters has a character twice")
        return 1 + len(characters)
    text(MAX_TEXT)(tokenizer.get("json"), f"{place}.json")
    try:
        content = json.loads(tokenizer["json"])
    except (ValueError, RecursionError):
        raise ValueError(f"{place}.json is no JSON") from None
    HUGGING_FACE(content, f"{place}.json")
    numbers = content["model"]["vocab"].values()
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"{place}.json has words with the same number, or numbers without a word")
    return len(numbers)


def check_encoder(value: Any, place: str) -> None:
    words = listing(text(1 << 20), 1 << 24)
    rule = {
        "level": one_of("word", "character"),
        "lower_case": flag,
        "words": words,
        "labels": listing(text(1 << 20), 1 << 20, 2),
    }
    fields(rule, others=scalar)(value, place)
    for name in ("words", "labels"):
        if len(set(value[name])) != len(value[name]):
            raise ValueError(f"{place}.{name} has an entry twice")


TOKENIZER = fields(
    {"level": one_of("character", "byte", "word", "bpe")},
    {"characters": text(1 << 21), "json": text(MAX_TEXT)},
)
ENTRIES = fields(
    {
        "state_dict": keyed(text(), plain),
        "hyper_parameters": keyed(text(), plain),
    },
    {
        "format": whole(),
        "epoch": whole(),
        "global_step": whole(),
        "pytorch-lightning_version": matching(r"2\.[0-9]+\.[0-9]+[.a-z0-9+]*"),
        "loops": LOOPS,
        "callbacks": keyed(text(1000), plain),
        "optimizer_states": listing(fields({"state": plain, "param_groups": plain}), 1),
        "lr_schedulers": listing(plain, 1),
        "MixedPrecision": keyed(text(), number()),
        "averaging_state": fields({"n_averaged": tensor()}),
        "current_model_state": keyed(text(), plain),
        "hparams_name": text(),
        "datamodule_hparams_name": text(),
        "datamodule_hyper_parameters": keyed(text(), either(scalar, text(MAX_PATH))),
        "TextDataModule": fields(
            {"tokenizer": TOKENIZER},
            {"text": text(), "training": whole(), "held_out": whole(), "inherited": one_of(True)},
            others=scalar,
        ),
        "LabelledDataModule": fields(
            {"encoder": check_encoder}, {"texts": text(), "inherited": one_of(True)}, others=scalar
        ),
        "config": check_config,
        "random_states": listing(check_random_state, MAX_PROCESSES),
        "other_random_states": listing(check_other_random_states, MAX_PROCESSES),
        "recurrent_state": plain,
    },
)
