"""Checkpoints from others: whatever a file holds, it is read as data, refused in one line, or does no harm."""

import base64
import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.checkpoint_files import WholeFiles, read_checkpoint
from models.checkpoint_shapes import shapes, trained
from models.checkpoints import classifier, language_model
from models.classifier import Classifier
from models.language_model import LanguageModel
from tests.scripts import run

Change = Callable[[dict[str, Any]], Any]
FEW = [
    "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2",
    "--trainer.enable_progress_bar", "false", "--model.embedding_size", "4", "--model.hidden_size", "5",
    "--data.batch_size", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of last.ckpt of a language model, and as "classifier" of a classifier, each after two updates."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "text.txt").write_text("0123456789 9876543210\n" * 30, encoding="utf-8")
    (folder / "table.csv").write_text("text,label\n" + "It is good!,good\nIt isn't,bad\n" * 15, encoding="utf-8")
    found = {}
    for name, options in (
        ("writes", ["--data.path", "text.txt", "--data.window", "4"]),
        ("classifies", ["--task", "classify", "--data.path", "table.csv"]),
    ):
        (folder / f"{name}.yaml").write_text("seed_everything: 1\n")
        done = run("train.py", "--config", f"{name}.yaml", *FEW, *options, cwd=folder)
        assert done.returncode == 0, done.stderr
        with torch.serialization.safe_globals([]):
            found[name] = torch.load(folder / f"runs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
    return found


def changed(good: dict[str, Any], change: Change, path: Path, of: str = "writes") -> Path:
    content = copy.deepcopy(good[of])
    change(content)
    torch.save(content, path)
    return path


def at(content: Any, place: str) -> tuple[Any, Any]:
    """The container of a place such as "optimizer_states/0/state", and its key there."""
    *above, last = (int(name) if name.isdigit() else name for name in place.split("/"))
    for name in above:
        content = content[name]
    return content, last


def put(place: str, value: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        container, name = at(content, place)
        container[name] = value

    return change


def drop(place: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        container, name = at(content, place)
        del container[name]

    return change


def poison(place: str, value: float) -> Change:
    def change(content: dict[str, Any]) -> None:
        container, name = at(content, place)
        container[name].view(-1)[0] = value

    return change


FIT, ADAM = "loops/fit_loop", "optimizer_states/0/param_groups/0"
COMBINED = f"{FIT}/state_dict/combined_loader"
NUMPY, PYTHON = "other_random_states/0/1", "other_random_states/0/0"
WORDS = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}
MALFORMED: dict[str, tuple[Change, str]] = {
    "another entry": (put("evil", 1), "an unknown entry evil"),
    "no weights": (drop("state_dict"), "no weights"),
    "weights that are a list": (put("state_dict", []), "state_dict is a list of 0: expected a dict"),
    "a weight missing": (drop("state_dict/head.bias"), "state_dict has no head.bias"),
    "a weight more": (put("state_dict/more", torch.zeros(3)), "state_dict has an unknown entry more"),
    "a weight of another shape": (put("state_dict/head.bias", torch.zeros(3)), "head.bias is a tensor (3,): expected"),
    "a weight of integers": (put("state_dict/head.bias", torch.zeros(13, dtype=torch.int64)), "of the dtypes"),
    "a weight that is text": (put("state_dict/head.bias", "text"), "head.bias is 'text': expected a tensor"),
    "a NaN weight": (poison("state_dict/head.weight", math.nan), "head.weight has NaN or infinite values"),
    "an infinite weight": (poison("state_dict/head.weight", -math.inf), "head.weight has NaN or infinite values"),
    "options that are a list": (put("hyper_parameters", [1]), "hyper_parameters is a list of 1: expected a dict"),
    "an unknown option": (put("hyper_parameters/evil", 1), "hyper_parameters has an unknown entry evil"),
    "an option of another type": (put("hyper_parameters/learning_rate", "1"), "learning_rate is '1': expected"),
    "an option out of its words": (put("hyper_parameters/cell", "os.system"), "cell is 'os.system': expected one of"),
    "an option that is a dict": (put("hyper_parameters/backend", {"class_path": "os"}), "backend is a dict of 1"),
    "no vocabulary size": (drop("hyper_parameters/vocab_size"), "hyper_parameters has no vocab_size"),
    "a huge layer": (put("hyper_parameters/hidden_size", 12_000), "state_dict.recurrent.cells.0.weight_ih is"),
    "a negative layer": (put("hyper_parameters/hidden_size", -5), "state_dict.recurrent.cells.0.weight_ih is"),
    "many layers": (put("hyper_parameters/num_layers", 10_000_000), "num_layers is 10000000, but the weights are"),
    "no layers": (put("hyper_parameters/num_layers", 0), "num_layers is 0"),
    "a huge vocabulary": (put("hyper_parameters/vocab_size", 10**9), "embedding.weight is a tensor"),
    "a smaller tokenizer": (put("TextDataModule/tokenizer/characters", "ab"), "vocab_size 3, but its model 13"),
    "a larger tokenizer": (put("TextDataModule/tokenizer/characters", "abcdefghijklmnop"), "vocab_size 17, but"),
    "a character twice": (put("TextDataModule/tokenizer/characters", "a" * 12), "has a character twice"),
    "a tokenizer that is a list": (put("TextDataModule/tokenizer", ["level"]), "tokenizer is a list of 1"),
    "a tokenizer of no level": (put("TextDataModule/tokenizer/level", "os"), "tokenizer.level is 'os'"),
    "a tokenizer without its words": (put("TextDataModule/tokenizer/level", "word"), "tokenizer has no json"),
    "a tokenizer of bytes with more": (put("TextDataModule/tokenizer/level", "byte"), "an unknown entry characters"),
    "a tokenizer that is no JSON": (put("TextDataModule/tokenizer", {"level": "bpe", "json": "{"}), "is no JSON"),
    "a tokenizer nested deeply": (put("TextDataModule/tokenizer", {"level": "bpe", "json": "[" * 10**5}), "no JSON"),
    "a tokenizer of other parts": (
        put("TextDataModule/tokenizer", {"level": "word", "json": json.dumps({"model": WORDS, "pre_tokenizer": {}})}),
        "tokenizer.json.pre_tokenizer has no type",
    ),
    "optimizer states that are a dict": (put("optimizer_states", {}), "optimizer_states is a dict of 0"),
    "no moments": (put("optimizer_states/0/state/0", {}), "state.0 has no exp_avg"),
    "a smaller moment": (put("optimizer_states/0/state/0/exp_avg", torch.zeros(1)), "exp_avg is a tensor (1,)"),
    "a moment of another dtype": (
        put("optimizer_states/0/state/0/exp_avg", torch.zeros(13, 4, dtype=torch.float64)),
        "has the dtype torch.float64",
    ),
    "a NaN moment": (poison("optimizer_states/0/state/1/exp_avg_sq", math.nan), "exp_avg_sq has NaN"),
    "a step that is text": (put("optimizer_states/0/state/0/step", "1"), "step is '1'"),
    "a parameter that is not there": (put("optimizer_states/0/state/99", {}), "an unknown entry 99"),
    "another moment": (put("optimizer_states/0/state/0/evil", torch.zeros(1)), "an unknown entry evil"),
    "other parameters": (put(f"{ADAM}/params", [0] * 7), "optimizer_states has other parameters"),
    "an option of the optimizer": (put(f"{ADAM}/evil", 1), "an unknown entry evil"),
    "a negative rate": (put(f"{ADAM}/lr", -1.0), "lr is -1.0"),
    "a rate that is NaN": (put(f"{ADAM}/lr", math.nan), "lr is nan"),
    "amsgrad without its moment": (put(f"{ADAM}/amsgrad", True), "amsgrad is True"),
    "capturable": (put(f"{ADAM}/capturable", True), "capturable is True"),
    "two groups": (put("optimizer_states/0/param_groups", [{}, {}]), "param_groups is a list of 2"),
    "a method of the schedule": (put("lr_schedulers/0/step", 1), "lr_schedulers[0] has an unknown entry step"),
    "attributes of the schedule": (put("lr_schedulers/0/lr_lambdas", [{"__code__": 1}]), "lr_lambdas[0]"),
    "a schedule less": (put("lr_schedulers/0", {}), "lr_schedulers[0] has no base_lrs"),
    "no loops": (put("loops", {}), "loops has no fit_loop"),
    "loops that are a number": (put("loops", 7), "loops is 7: expected a dict"),
    "a negative count": (put(f"{FIT}/epoch_progress/current/ready", -1), "ready is -1"),
    "a count that is text": (put(f"{FIT}/epoch_progress/current/ready", "1"), "ready is '1'"),
    "an attribute of the progress": (put(f"{FIT}/epoch_progress/current/reset", 1), "an unknown entry reset"),
    "a position of a dict": (put(COMBINED, [{"position": {}}]), "position is a dict of 0"),
    "callbacks that are a list": (put("callbacks", []), "callbacks is a list of 0"),
    "speed that is text": (put("callbacks/Throughput/seconds", "1"), "seconds is '1'"),
    "speed less": (put("callbacks/Throughput", {}), "callbacks.Throughput has no tokens"),
    "rows of another model": (put("callbacks/GradientFlow/rows", [{"epochs": 1.0}]), "rows are of another model"),
    "rows that are a number": (put("callbacks/GradientFlow/rows", 1), "rows is 1"),
    "a best checkpoint that is a list": (put("callbacks/BestCheckpoint{x}", [[]]), "BestCheckpoint{x} is a list of 1"),
    "a patience that is text": (put("callbacks/EarlyStopping{x}", {"patience": "1"}), "has no wait_count"),
    "a time that is text": (put("callbacks/Timer", {"time_elapsed": {"train": "1"}}), "time_elapsed.train is '1'"),
    "a checkpoint callback of texts": (put("callbacks/X", {"best_k_models": "os"}), "callbacks.X has no monitor"),
    "random states that are none": (put("random_states", [[torch.zeros(3, dtype=torch.uint8)]]), "random_states[0]"),
    "a random state of floats": (put("random_states", [[torch.zeros(5056)]]), "has the dtype torch.float32"),
    "a position of NumPy's": (put(f"{NUMPY}/state/pos", 10**6), "pos is 1000000"),
    "a key of NumPy's": (put(f"{NUMPY}/state/key", [2**40] * 624), "key[0] is 1099511627776"),
    "a generator of NumPy's": (put(f"{NUMPY}/bit_generator", "os"), "bit_generator is 'os'"),
    "Python's state": (put(PYTHON, (3, (1, 2), None)), "no state of Python's random"),
    "Python's state as a dict": (put(PYTHON, {}), "no state of Python's random"),
    "None for a number of the trainer": (put("config/trainer/overfit_batches", None), "overfit_batches is None"),
    "a state of other streams": (put("recurrent_state/1", torch.zeros(1, 2, 5)), "recurrent_state[1] is a tensor"),
    "a state of one tensor": (put("recurrent_state", [torch.zeros(1, 3, 5)]), "recurrent_state is"),
    "a NaN state": (poison("recurrent_state/0", math.nan), "recurrent_state[0] has NaN"),
    "an epoch that is text": (put("epoch", "1"), "epoch is '1'"),
    "a huge update": (put("global_step", 10**18), "global_step is"),
    "an old version of Lightning": (put("pytorch-lightning_version", "0.9.0"), "pytorch-lightning_version is '0.9.0'"),
    "no version of Lightning": (put("pytorch-lightning_version", None), "pytorch-lightning_version is None"),
    "another format": (put("format", 99), "its format is 99, and this version of the project reads 1"),
    "a format that is text": (put("format", "1"), "its format is '1'"),
    "a config that is a number": (put("config", 7), "config is 7"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_checkpoint_is_one_line_with_its_name(name: str, good: dict[str, Any], tmp_path: Path) -> None:
    change, message = MALFORMED[name]
    path = changed(good, change, tmp_path / "evil.ckpt")
    for read in (read_checkpoint, WholeFiles().load_checkpoint, LanguageModel.load_from_checkpoint):
        with pytest.raises(ValueError) as caught:
            read(str(path))
        said = str(caught.value)
        assert said.startswith(f"{path}: is not a checkpoint of train.py: ") and message in said, said
        assert "\n" not in said and len(said) < len(str(path)) + 400


@pytest.mark.parametrize("name", ["a NaN weight", "a smaller tokenizer", "a huge layer", "options that are a list"])
def test_every_script_says_so_in_one_line(name: str, good: dict[str, Any], tmp_path: Path) -> None:
    change, message = MALFORMED[name]
    path = changed(good, change, tmp_path / "evil.ckpt")
    for command in ("generate --checkpoint", "score --checkpoint", "suggest a --checkpoint", "classify a --checkpoint"):
        check_refused(run("predict.py", *command.split(), str(path), cwd=tmp_path), message)
    check_refused(run("explore.py", "--checkpoint", str(path), cwd=tmp_path), message)
    check_refused(run("train.py", "--ckpt_path", str(path), cwd=tmp_path), message)


def check_refused(done: Any, message: str) -> None:
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert "evil.ckpt: is not a checkpoint of train.py: " in done.stderr and message in done.stderr


def test_a_position_beyond_the_text_is_one_line(good: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("0123456789 9876543210\n" * 30, encoding="utf-8")
    again = ["--trainer.accelerator", "cpu", "--data.path", "text.txt"]
    for state, message in (({"position": 10**12}, "its position is 1000000000000, but this text has"), ({}, "None")):
        path = changed(good, put(COMBINED, [state]), tmp_path / "evil.ckpt")
        done = run("train.py", "--ckpt_path", str(path), *again, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


OF_CLASSIFIERS: dict[str, tuple[Change, str]] = {
    "fewer words": (put("LabelledDataModule/encoder/words", ["a"]), "vocab_size 2, but its model"),
    "more labels": (put("LabelledDataModule/encoder/labels", ["a", "b", "c"]), "num_classes 3, but its model 2"),
    "a label twice": (put("LabelledDataModule/encoder/labels", ["a", "a"]), "labels has an entry twice"),
    "labels that are numbers": (put("LabelledDataModule/encoder/labels", [1, 2]), "labels[0] is 1"),
    "an encoder that is text": (put("LabelledDataModule/encoder", "os"), "encoder is 'os'"),
    "weights of classes": (put("hyper_parameters/class_weights", ["a"]), "class_weights[0] is 'a'"),
    "a huge number of classes": (put("hyper_parameters/num_classes", 10**9), "head.weight is a tensor"),
}


@pytest.mark.parametrize("name", OF_CLASSIFIERS)
def test_a_malformed_checkpoint_of_a_classifier_is_one_line(name: str, good: dict[str, Any], tmp_path: Path) -> None:
    change, message = OF_CLASSIFIERS[name]
    path = changed(good, change, tmp_path / "evil.ckpt", "classifies")
    with pytest.raises(ValueError, match="is not a checkpoint of train.py: ") as caught:
        read_checkpoint(path)
    assert message in str(caught.value)


EVENTS: list[tuple[str, Any]] = []
WATCHED = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo",
           "urllib.Request", "os.mkdir", "os.remove", "os.rename", "webbrowser.open")  # fmt: skip
watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook cannot be removed: it records while `watching`."""
    if watching and (event in WATCHED or event == "import" and arguments[0] in ("antigravity", "this", "evil")):
        EVENTS.append((event, arguments))
    if watching and event == "open" and "secret" in str(arguments[0]):
        EVENTS.append((event, arguments))


sys.addaudithook(watch)
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["mkdir", "harmed"]}}
CALLBACK = {"class_path": "pytorch_lightning.callbacks.LambdaCallback", "init_args": {"on_fit_start": POPEN}}
ESCAPED = json.dumps([CALLBACK]).replace(".", "\\u002e")
ADDRESS = "data://;base64," + base64.b64encode(json.dumps([CALLBACK]).encode()).decode()
CONFIGS: dict[str, Change] = {
    "callbacks": put("config/trainer/callbacks", [CALLBACK]),
    "callbacks as JSON": put("config/trainer/callbacks", json.dumps([CALLBACK])),
    "callbacks as JSON without dots": put("config/trainer/callbacks", ESCAPED),
    "callbacks at an address": put("config/trainer/callbacks", ADDRESS),
    "callbacks in a file": put("config/trainer/callbacks", "secret.yaml"),
    "callbacks by name": put("config/trainer/callbacks", "antigravity.Callback"),
    "callbacks by a dotted key": put("config/trainer/callbacks.class_path", "antigravity.Callback"),
    "callbacks added": put("config/trainer/callbacks+", [CALLBACK]),
    "a dotted key at the top": put("config/trainer.callbacks", [CALLBACK]),
    "a dotted key of the model": put("config/model/cell.class_path", "antigravity.Cell"),
    "a dotted key of the data": put("config/data/path.x", "secret.txt"),
    "a config in the config": put("config/config", "secret.yaml"),
    "a checkpoint": put("config/ckpt_path", "secret.ckpt"),
    "a logger": put("config/trainer/logger", {"class_path": "antigravity.Logger"}),
    "a logger by name": put("config/trainer/logger", "antigravity.Logger"),
    "a strategy": put("config/trainer/strategy", ESCAPED),
    "a plugin": put("config/trainer/plugins", [POPEN]),
    "a profiler": put("config/trainer/profiler", POPEN),
    "an accelerator": put("config/trainer/accelerator", POPEN),
    "devices": put("config/trainer/devices", "antigravity"),
    "a folder": put("config/trainer/default_root_dir", "/tmp/evil"),
    "time as a class": put("config/trainer/max_time", POPEN),
    "time as text": put("config/trainer/max_time", ESCAPED),
    "an interval as text": put("config/trainer/val_check_interval", ESCAPED),
    "precision": put("config/trainer/precision", "antigravity"),
    "a clipping algorithm": put("config/trainer/gradient_clip_algorithm", "antigravity.x"),
    "determinism": put("config/trainer/deterministic", "${oc.env:HOME}"),
    "the text": put("config/data/path", "secret.txt"),
    "the text of validation": put("config/data/val_path", "secret.txt"),
    "a corpus": put("config/data/corpus", "../../secret"),
    "an encoding": put("config/data/encoding", "../secret"),
    "an encoding as an address": put("config/data/encoding", ADDRESS),
    "a cell": put("config/model/cell", "antigravity.Cell"),
    "a cell as a class": put("config/model/cell", POPEN),
    "a rate as text": put("config/model/learning_rate", ESCAPED),
    "a rate of the environment": put("config/model/learning_rate", "${HOME}"),
    "a tag of YAML": put("config/model/learning_rate", "!!python/object/apply:os.system ['mkdir harmed']"),
    "lists of texts": put("config/model/learning_rate", ["antigravity.x", ESCAPED]),
    "a task": put("config/task", "antigravity"),
    "a task as a class": put("config/task", POPEN),
    "a seed": put("config/seed_everything", ESCAPED),
    "how often it saves": put("config/save_every", "antigravity"),
    "an unknown key": put("config/evil", 1),
    "an unknown key of the trainer": put("config/trainer/evil", 1),
    "an unknown key of the model": put("config/model/evil", 1),
    "an unknown key of the data": put("config/data/evil", 1),
    "flags that are commands": put("config/again", ["data.path; rm -rf /"]),
    "flags that are a text": put("config/again", "data.path"),
    "a list": put("config", [CALLBACK]),
    "a text": put("config", yaml.safe_dump({"trainer": {"callbacks": [CALLBACK]}})),
    "a text with anchors": put("config", "a: &a [1]\n" + "".join(f"b{k}: &b{k} [*a, *a]\n" for k in range(9))),
    "a long text": put("config", "a" * (2 << 20)),
    "a trainer that is a text": put("config/trainer", "secret.yaml"),
    "a model that is a text": put("config/model", "secret.yaml"),
    "data that are a text": put("config/data", ADDRESS),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_no_config_of_a_checkpoint_runs_imports_or_opens_anything(
    name: str, good: dict[str, Any], tmp_path: Path
) -> None:
    global watching
    path = changed(good, CONFIGS[name], tmp_path / "evil.ckpt")
    for secret in ("secret.yaml", "secret.txt"):
        (tmp_path / secret).write_text(json.dumps([CALLBACK]))
    EVENTS.clear()
    watching = True
    try:
        again = ["--trainer.accelerator", "cpu", "--data.path", str(tmp_path / "none.txt")]
        done = run("train.py", "--ckpt_path", str(path), *again, cwd=tmp_path, env={"HOME": "1"})
    finally:
        watching = False
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("train.py: ") and done.stderr.count("\n") == 1 and len(done.stderr) < 700, done.stderr
    assert "none.txt" not in done.stderr, "it is refused before the text is looked for"
    assert EVENTS == [] and {entry.name for entry in tmp_path.iterdir()} == {"evil.ckpt", "secret.yaml", "secret.txt"}


def test_the_good_ones_are_read(good: dict[str, Any], tmp_path: Path) -> None:
    for of, load in (("writes", language_model), ("classifies", classifier)):
        load(read_checkpoint(changed(good, lambda content: None, tmp_path / "good.ckpt", of)))
    for name in ("callbacks", "optimizer_states", "loops", "config", "recurrent_state", "format"):
        language_model(read_checkpoint(changed(good, drop(name), tmp_path / "good.ckpt")))


def test_no_path_of_a_callback_is_restored_but_of_checkpoints_beside_the_runs_own(
    good: dict[str, Any], tmp_path: Path
) -> None:
    """Lightning's ModelCheckpoint deletes what its state names."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").touch()
    (folder / "notes.txt").touch()
    (folder / "sub.ckpt").mkdir()
    (tmp_path / "other.ckpt").touch()
    own = str(folder / "best.ckpt")
    names = [own, str(folder / "notes.txt"), str(folder / "sub.ckpt"), str(tmp_path / "other.ckpt"), "data://x.ckpt",
             str(folder / ".." / ".." / "other.ckpt")]  # fmt: skip
    (name,) = (name for name in good["writes"]["callbacks"] if name.startswith("BestCheckpoint"))

    def change(content: dict[str, Any]) -> None:
        state = content["callbacks"].pop(name)
        state |= {"dirpath": str(folder), "best_model_path": own, "last_model_path": names[3]}
        state["best_k_models"] = {path: torch.tensor(1.0) for path in names}
        content["callbacks"] |= {name: state, "MyCheckpoint": copy.deepcopy(state)}

    for path, kept in ((folder / "last.ckpt", True), (folder / "sent.ckpt", False), (tmp_path / "last.ckpt", False)):
        callbacks = read_checkpoint(changed(good, change, path))["callbacks"]
        for state in (callbacks[name], callbacks["MyCheckpoint"]):
            assert list(state["best_k_models"]) == ([own] if kept else [])
            assert state["best_model_path"] == (own if kept else "")
            assert state["dirpath"] == (str(folder) if kept else None)
            assert state["last_model_path"] == ""


def test_shapes_are_those_of_the_models() -> None:
    for options in (
        {"cell": "rnn"},
        {"cell": "gru", "num_layers": 3, "embedding_size": 4},
        {"cell": "lstm", "num_layers": 2, "embedding_size": 6, "tied": True, "forget_bias": 1.0},
        {"cell": "gru", "attention_span": 5},
    ):
        check_shapes(LanguageModel(vocab_size=7, hidden_size=6, **options))
    for more in ({"cell": "gru", "num_layers": 2}, {"pooling": "dot"}, {"class_weights": [1.0, 2.0, 3.0]}):
        check_shapes(Classifier(vocab_size=7, num_classes=3, embedding_size=4, hidden_size=5, **more))


def check_shapes(model: Any) -> None:
    found = shapes(dict(model.hparams), len(model.state_dict()))
    assert found == {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert trained(dict(model.hparams), found) == [name for name, _ in model.named_parameters()]
