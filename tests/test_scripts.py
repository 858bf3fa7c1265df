"""The scripts as users call them: what a run leaves behind, what it prints, and one line for each mistake."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import predict
from tests.scripts import ROOT, run

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


OF_THE_MACHINE = ("tokens_per_second", "peak_memory_mb")


def small(config: Path, text: Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run(
        "train.py", "--config", str(config), "--data.path", str(text), "--trainer.default_root_dir", str(root),
        "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4", "--trainer.accelerator", "cpu",
        "--data.batch_size", "4", "--data.window", "8", "--model.hidden_size", "12",
        "--trainer.log_every_n_steps", "2", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("def double(number):\n    return 2 * number\n\n" * 60, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small run in it."""
    root = tmp_path_factory.mktemp("runs")
    done = small(ROOT / "configs" / "lstm.yaml", text, root)
    assert done.returncode == 0, done.stderr
    (root / "printed.txt").write_text(done.stdout, encoding="utf-8")
    assert done.stderr == ""
    return root


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> str:
    return str(root / "lstm" / "version_0" / "checkpoints" / "best.ckpt")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text("text,label\n" + "It is good!,good\nIt isn't,bad\nIt is,none\n" * 9, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def judged(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a small run of a classifier printed, and its folder."""
    root = tmp_path_factory.mktemp("runs")
    done = run(
        "train.py", "--config", str(ROOT / "configs" / "sentiment.yaml"), "--data.path", str(table),
        "--data.test_path", str(table), "--trainer.default_root_dir", str(root), "--trainer.max_steps", "4",
        "--data.batch_size", "4", "--model.embedding_size", "4", "--model.hidden_size", "3",
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout, root / "sentiment" / "version_0"


@pytest.fixture(scope="module")
def verdicts(judged: tuple[str, Path]) -> str:
    """The checkpoint of a classifier."""
    return str(judged[1] / "checkpoints" / "last.ckpt")


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: row[name] for name in row if name not in OF_THE_MACHINE} for row in csv.DictReader(file)]


def test_a_run_leaves_what_it_should(root: Path) -> None:
    folder = root / "lstm" / "version_0"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "samples.txt", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (folder / "samples.txt").read_text(encoding="utf-8").count("=== epoch") == 2
    header = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    wanted = {"train_loss", "train_bpc", "val_loss", "val_bpc", "tokens_per_second", "learning_rate", "grad_norm"}
    assert wanted <= set(header)


def test_the_last_lines_tell_the_result(root: Path, checkpoint: str) -> None:
    printed = (root / "printed.txt").read_text(encoding="utf-8")
    assert f"best checkpoint  {checkpoint}" in printed
    assert re.search(r"held out         \d\.\d{4} nats = \d\.\d{4} bits per symbol\n", printed)
    assert re.search(r"training speed   [\d,]+ tokens/s\nit writes\n    ", printed)


def test_the_same_seed_gives_the_same_bits(root: Path, text: Path) -> None:
    assert small(ROOT / "configs" / "lstm.yaml", text, root).returncode == 0
    assert metrics(root / "lstm" / "version_1") == metrics(root / "lstm" / "version_0")


def test_a_run_that_stops_at_a_number_of_updates_validates_too(text: Path, tmp_path: Path) -> None:
    done = small(ROOT / "configs" / "gru.yaml", text, tmp_path, "--trainer.max_steps", "3")
    assert done.returncode == 0 and done.stderr == ""
    assert "update 3: held out" in done.stdout and "best checkpoint" in done.stdout
    plain = ["--trainer.enable_checkpointing", "false", "--trainer.enable_progress_bar", "false"]
    done = small(ROOT / "configs" / "rnn.yaml", text, tmp_path, *plain)
    assert done.returncode == 0 and "no checkpoint was written" in done.stdout


def test_without_a_config_there_is_nothing_to_train(tmp_path: Path) -> None:
    done = run("train.py", cwd=tmp_path)
    assert done.returncode == 2 and "give --config configs/lstm.yaml" in done.stderr and not any(tmp_path.iterdir())


def test_a_run_goes_on_from_its_last_checkpoint(root: Path, text: Path) -> None:
    last = str(root / "lstm" / "version_0" / "checkpoints" / "last.ckpt")
    more = ["--trainer.max_epochs", "3", "--ckpt_path", last]
    done = small(ROOT / "configs" / "lstm.yaml", text, root / "more", *more)
    assert done.returncode == 0 and done.stderr == ""
    assert "epoch 3, update 12" in done.stdout
    again = ["--data.path", str(text), "--trainer.accelerator", "cpu"]
    alone = run("train.py", *more, *again, "--trainer.default_root_dir", str(root / "alone"))
    assert alone.returncode == 0 and alone.stderr == ""
    folders = [root / name / "lstm" / "version_0" for name in ("more", "alone")]
    assert metrics(folders[0]) == metrics(folders[1]), "it needs nothing else"


def test_a_checkpoint_is_numbers_and_primitives_alone_and_moves_anywhere(checkpoint: str, tmp_path: Path) -> None:
    torch.load(checkpoint, weights_only=True)
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(Path(checkpoint).read_bytes())
    arguments = ["generate", "--checkpoint", str(moved), "--prompt", "def ", "--length", "50", "--seed", "3"]
    first, second = (run("predict.py", *arguments, cwd=tmp_path) for _ in range(2))
    assert first.returncode == 0 and first.stderr == ""
    assert first.stdout.startswith("def ") and len(first.stdout) == len("def ") + 50 + len("\n")
    assert first.stdout == second.stdout
    other = run("predict.py", *arguments[:-1], "4", cwd=tmp_path)
    assert other.stdout != first.stdout


def test_several_texts_are_those_that_their_seeds_give_alone(checkpoint: str) -> None:
    def write(*more: str) -> str:
        narrow = ["--top_k", "9", "--top_p", "0.9", "--length", "40", "--stop", "return", "\n\n"]
        done = run("predict.py", "generate", "--checkpoint", checkpoint, "--prompt", "def ", *narrow, *more)
        assert done.returncode == 0 and done.stderr == ""
        return done.stdout

    alone = [write("--seed", str(seed)) for seed in (7, 8)]
    assert all(text.startswith("def ") and not re.search("return|\n\n", text[:-1]) for text in alone)
    assert write("--seed", "7", "--count", "2") == f"=== seed 7 ===\n{alone[0]}\n=== seed 8 ===\n{alone[1]}"


def test_what_a_model_writes_is_scored(checkpoint: str) -> None:
    done = run("predict.py", "score", "--checkpoint", checkpoint, "--samples", "3", "--length", "80")
    assert done.returncode == 0 and done.stderr == ""
    assert re.match(r"of 3 samples, with \d+\.\d complete statements each\n(.{24} *\d+%\n){5}$", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--top_p", "1.2"], "top_p is 1.2: it must be more than 0, and at most 1"),
        (["generate", "--top_k", "0"], "top_k is 0: it must be at least 1"),
        (["generate", "--temperature", "-1"], "temperature is -1.0: it must be 0 or more"),
        (["generate", "--count", "0"], "the number of samples is 0: it must be at least 1"),
        (["generate", "--stop", ""], "a stop string is empty"),
        (["score", "--samples", "0"], "the number of samples is 0: it must be at least 1"),
    ],
)
def test_mistakes_in_writing_are_one_line(
    checkpoint: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments, "--checkpoint", checkpoint])
    with pytest.raises(SystemExit, match="2"):
        predict.main()
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"predict.py: {message}") and printed.err.count("\n") == 1


def test_prompts_with_symbols_that_the_model_never_saw(checkpoint: str) -> None:
    def write(*more: str) -> subprocess.CompletedProcess[str]:
        return run("predict.py", "generate", "--checkpoint", checkpoint, "--prompt", "dZé", "--length", "5", *more)

    refused = write()
    assert refused.returncode == 2 and "the vocabulary has no 'Z', 'é': --unknown skip or replace" in refused.stderr
    for choice in ("skip", "replace"):
        done = write("--unknown", choice)
        assert done.returncode == 0 and done.stdout.startswith("dZé")


@pytest.fixture(scope="module")
def words(text: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint of a model of words."""
    root = tmp_path_factory.mktemp("words")
    done = small(ROOT / "configs" / "word.yaml", text, root, "--model.embedding_size", "12")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return str(root / "word" / "version_0" / "checkpoints" / "best.ckpt")


def test_words_are_suggested_and_completed(words: str, checkpoint: str) -> None:
    for model, count in ((words, 3), (checkpoint, 2)):
        done = run("predict.py", "suggest", "--checkpoint", model, "--count", str(count), "return 2 ")
        assert done.returncode == 0 and done.stderr == ""
        assert re.fullmatch(rf"(\w+ + \d+\.\d%\n){{{count}}}", done.stdout), done.stdout
    done = run("predict.py", "suggest", "--checkpoint", words, "def double(num")
    assert done.returncode == 0 and done.stdout == "number  100.0%\n"
    done = run("predict.py", "suggest", "--checkpoint", words, "def treble(tri")
    assert done.returncode == 2 and "the vocabulary has no word that begins with 'tri'" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_without_a_terminal_every_line_gets_suggestions(words: str) -> None:
    done = run("predict.py", "suggest", "--checkpoint", words, "--interactive", stdin="def double(num\ntri\n")
    assert done.returncode == 0 and done.stderr == ""
    first, second = done.stdout.strip().splitlines()
    assert first == "number 100.0%" and "no word that begins with 'tri'" in second


def test_classifying_names_the_class_its_odds_and_what_was_looked_at(verdicts: str, tmp_path: Path) -> None:
    texts = ["It is good!", "It isn’t  new"]
    done = run("predict.py", "classify", "--checkpoint", verdicts, *texts, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for text, (first, odds, looks) in zip(texts, (lines[:3], lines[3:]), strict=True):
        label, rest = first.split(maxsplit=1)
        shares = {name: float(share) for name, share in re.findall(r"(\w+) ([\d.]+)%", odds)}
        assert rest == text and list(shares) == ["bad", "good", "none"]
        assert abs(sum(shares.values()) - 100) < 0.2 and shares[label] == max(shares.values())
        assert re.fullmatch(r" +looked at (\S+ \d+%, )+\S+ \d+%", looks)
    assert "good " in lines[2] and "n’t " in lines[5], "words as they are written"


def test_a_classifiers_run_tells_what_it_takes_for_what(judged: tuple[str, Path]) -> None:
    printed, folder = judged
    assert "27 texts to train on" not in printed and "classes bad, good, none" in printed
    assert re.search(r"epoch 1, update 4: held out [\d.]+ nats a text, [\d.]+% right", printed)
    assert re.search(r"held out +accuracy [\d.]+, macro F1 [\d.]+", printed)
    assert re.search(r"test +accuracy [\d.]+.*\n +true +as bad +as good +as none\n +bad( +\d+){3}\n", printed)
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "metrics.csv", "checkpoints"}


def test_help_is_enough(root: Path) -> None:
    for script, wanted in (
        ("train.py", ["--data.path", "--model.cell", "--ckpt_path", "forget gate"]),
        ("predict.py", ["generate", "classify", "suggest"]),
    ):
        done = run(script, "--help")
        assert done.returncode == 0
        assert all(word in done.stdout for word in wanted)


MISTAKES = {
    "no file": (["--data.path", "{tmp}/none.txt"], "none.txt: no such file; give a text file with --data.path"),
    "folder": (["--data.path", "{tmp}/nothing"], "is a folder without files"),
    "uneven": (
        ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "3"],
        "--data.batch_size",
    ),
    "empty": (["--data.path", "{tmp}/empty.txt"], "is empty"),
    "not utf-8": (["--data.path", "{tmp}/latin.txt"], "byte 3 is not utf-8; name its encoding with --data.encoding"),
    "too short": (["--data.path", "{tmp}/short.txt"], "would fit"),
    "unknown key": (["--model.hiden_size", "3"], "hiden_size"),
    "wrong value": (["--model.cell", "elman"], "elman"),
    "no such level": (["--data.level", "sentence"], "sentence"),
    "few words": (["--data.level", "word", "--data.vocabulary_size", "1"], "--data.vocabulary_size is 1"),
    "no checkpoint": (["--ckpt_path", "{tmp}/none.ckpt"], "none.ckpt: no such checkpoint"),
    "not a checkpoint": (["--ckpt_path", "{tmp}/short.txt"], "short.txt: is not a checkpoint of train.py"),
    "no config": (["--config", "{tmp}/none.yaml"], "none.yaml"),
    "bad config": (["--config", "{tmp}/bad.yaml"], "learning_speed"),
    "bad time": (["--trainer.max_time", "5"], "DD:HH:MM:SS"),
    "another text": (
        ["--data.path", "{tmp}/other.txt", "--ckpt_path", "{ckpt}"],
        "other.txt: is not the text that the checkpoint was trained on",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_half_written(mistake: str, tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "other.txt").write_text("xyz" * 9000)
    (tmp_path / "bad.yaml").write_text("model:\n  learning_speed: 3\n")
    arguments, message = MISTAKES[mistake]
    given = [argument.format(tmp=tmp_path, ckpt=checkpoint) for argument in arguments]
    config = [] if "--config" in given else ["--config", str(ROOT / "configs" / "lstm.yaml")]
    done = run("train.py", *config, "--trainer.default_root_dir", str(tmp_path / "runs"), *given)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--checkpoint", "none.ckpt"], "none.ckpt: no such checkpoint"),
        (["generate", "--checkpoint", "README.md"], "README.md: is not a checkpoint of train.py"),
        (["generate", "--checkpoint", "models"], "models"),
        (["generate", "--checkpoint", "{ckpt}", "--temperature", "-1"], "it must be 0 or more"),
        (["generate", "--checkpoint", "{ckpt}", "--prompt", ""], "the prompt is empty"),
        (["generate"], "checkpoint"),
        (["translate"], "translate"),
        (["classify", "--checkpoint", "none.ckpt", "fine"], "none.ckpt: no such checkpoint"),
        (["classify", "--checkpoint", "{classifier}"], "texts"),
        (["classify", "--checkpoint", "{classifier}", "fine", ""], "text 2 is empty: give at least one word"),
        (["classify", "--checkpoint", "{ckpt}", "fine"], "a language model's, which knows no classes"),
        (["generate", "--checkpoint", "{classifier}"], "a classifier's, which writes nothing"),
        (["suggest", "--checkpoint", "{classifier}", "fine"], "a classifier's, which writes nothing"),
        (["suggest", "--checkpoint", "{ckpt}"], "the text is empty"),
        (["suggest", "--checkpoint", "{ckpt}", "a dZq"], "no word that begins with 'dZq'"),
        (["suggest", "--checkpoint", "{ckpt}", "a", "--count", "0"], "count"),
        ([], "generate"),
    ],
)
def test_a_mistake_in_predicting_is_one_line(
    arguments: list[str], message: str, checkpoint: str, verdicts: str
) -> None:
    given = [argument.format(ckpt=checkpoint, classifier=verdicts) for argument in arguments]
    done = run("predict.py", *given)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
