"""Texts as users give them to predict.py and explore.py: prompts, files, standard input, bytes, any encoding."""

import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import predict
from command_line import in_one_line
from datamodules.labelled import Encoder
from datamodules.text import TextDataModule
from datamodules.tokenizers import ByteTokenizer, CharacterTokenizer, WordTokenizer
from models.classifier import Classifier
from models.insight.flow import read_flow
from models.language_model import LanguageModel
from models.sampling import harmless, opening
from prompts import with_dashes
from tests.scripts import run

CHARACTERS = CharacterTokenizer.of("\n -ab\\n'é\t")
NOT_UTF_8 = bytes([0xFF, 0xD8, 0x0D, 0x0A, 0x80, 0x61])


def saved(path: Path, tokenizer: Any = CHARACTERS) -> str:
    torch.manual_seed(0)
    model = LanguageModel(tokenizer.vocab_size, hidden_size=4)
    state = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(state | {"TextDataModule": {"tokenizer": tokenizer.state()}, "config": "seed_everything: 3"}, path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With checkpoints of models whose symbols are characters, bytes and words, and of a classifier."""
    folder = tmp_path_factory.mktemp("checkpoints")
    saved(folder / "characters.ckpt")
    saved(folder / "bytes.ckpt", ByteTokenizer())
    saved(folder / "dna.ckpt", CharacterTokenizer.of("ACGT"))
    saved(folder / "words.ckpt", WordTokenizer.of("one two three\n" * 9 + "rare", 5))
    encoder = Encoder("word", True, ["good", "is", "it"], ["bad", "good"])
    torch.manual_seed(0)
    model = Classifier(encoder.vocab_size, 2, embedding_size=3, hidden_size=2)
    state = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(state | {"LabelledDataModule": {"encoder": encoder.state()}}, folder / "classes.ckpt")
    return folder


def generate(folder: Path, model: str, *arguments: str, **options: Any) -> Any:
    given = ["generate", "--checkpoint", str(folder / f"{model}.ckpt"), "--length", "3", *arguments]
    return run("predict.py", *given, cwd=folder, **options)


def classify(folder: Path, *arguments: str, **options: Any) -> Any:
    return run(
        "predict.py", "classify", "--checkpoint", str(folder / "classes.ckpt"), *arguments, cwd=folder, **options
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "--"], ["--prompt", "--a"], ["--prompt=-- a b"], ["--prompt", "---"], ["--prompt", "-a"],
        ["--prompt", "- a"], ["--prompt", "'a'"], ["--prompt", "--a=b"], ["--prompt", "null"], ["--prompt", "[a"],
    ],
)  # fmt: skip
def test_a_prompt_may_begin_with_dashes(folder: Path, arguments: list[str]) -> None:
    done = generate(folder, "characters", *arguments, "--unknown", "skip")
    prompt = arguments[-1].removeprefix("--prompt=")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(prompt) and len(done.stdout) == len(prompt) + 3 + 1


def test_only_values_that_are_no_options_are_joined() -> None:
    given = ["--prompt", "--length", "3", "--prompt", "--x", "--text", "--x"]
    assert with_dashes(given, ["--prompt"], ["--length"]) == [*given[:3], "--prompt=\0--x", "--text", "--x"]


@pytest.mark.parametrize(
    ("escapes", "given", "prompt", "message"),
    [
        (True, r"a\nb\t\\n\x62", "a\nb\t\\nb", ""),
        (True, r"\u00e9", "é", ""),
        (False, r"a\nb", r"a\nb", r"predict.py: --prompt has \n as two characters; with --escapes it is one"),
        (False, "a\nb", "a\nb", ""),
    ],
)
def test_escapes_in_prompts_are_read_when_asked_for(
    folder: Path, escapes: bool, given: str, prompt: str, message: str
) -> None:
    done = generate(folder, "characters", "--prompt", given, *["--escapes"] * escapes)
    assert done.returncode == 0 and done.stdout[:-4] == prompt
    assert done.stderr.startswith(message) and done.stderr.count("\n") == bool(message)


def test_a_prompt_comes_from_a_file_or_from_standard_input(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_bytes("\ufeffé\r\n--".encode())
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress("é\n--".encode()))
    (tmp_path / "latin.txt").write_bytes("é\n--".encode("latin-1"))
    plain, packed, latin = (str(tmp_path / name) for name in ("plain.txt", "packed.txt.gz", "latin.txt"))
    for done in (
        generate(folder, "characters", "--prompt_file", plain),
        generate(folder, "characters", "--prompt_file", packed),
        generate(folder, "characters", "--prompt_file", latin, "--encoding", "latin-1"),
        generate(folder, "characters", "--prompt_file", "-", stdin="é\n--"),
    ):
        assert done.returncode == 0 and done.stderr == "" and done.stdout[:-4] == "é\n--"


@pytest.mark.parametrize("model", ["dna", "words"])
def test_without_a_newline_in_the_vocabulary_another_prompt_is_taken(folder: Path, model: str) -> None:
    done = generate(folder, model)
    assert done.returncode == 0
    if model == "dna":
        assert done.stdout[0] == "A" and "lacks the usual prompt '\\n': the text begins with 'A'" in done.stderr
    score = run("predict.py", "score", "--checkpoint", str(folder / f"{model}.ckpt"), "--samples", "2", "--length", "3")
    assert score.returncode == 0 and "of 2 samples" in score.stdout and score.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "expected"), [("a\nb", "\n"), ("a b", " "), ("ACGT", "A"), ("", "\ufffd")])
def test_what_a_text_begins_with(text: str, expected: str) -> None:
    assert opening(CharacterTokenizer.of(text), "\n") == expected


def bytes_written(monkeypatch: pytest.MonkeyPatch, arguments: list[str], stdin: bytes = b"") -> bytes:
    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8") for name in ("stdout", "stderr")}
    streams["stdin"] = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
    predict.main()
    streams["stdout"].flush()
    content: bytes = streams["stdout"].buffer.getvalue()  # type: ignore[attr-defined]
    return content


def test_bytes_come_in_and_go_out_as_they_are(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompt.bin").write_bytes(NOT_UTF_8)
    given = ["generate", "--checkpoint", str(folder / "bytes.ckpt"), "--length", "50", "--prompt_file"]
    from_file = bytes_written(monkeypatch, [*given, str(tmp_path / "prompt.bin")])
    assert from_file[: len(NOT_UTF_8)] == NOT_UTF_8 and len(from_file) == len(NOT_UTF_8) + 50
    assert from_file == bytes_written(monkeypatch, [*given, "-"], NOT_UTF_8)
    escaped = r"\xff\xd8\r\n\x80a"
    assert from_file == bytes_written(monkeypatch, [*given[:-1], "--escapes", "--prompt", escaped])


def test_every_byte_is_encoded_and_decoded() -> None:
    content = bytes(range(256)) + b"\xed\xa0\x80" + "é大".encode()
    tokenizer = ByteTokenizer()
    text = content.decode("utf-8", "surrogateescape")
    assert tokenizer.encode(text).tobytes() == content
    assert "".join(tokenizer.decode(tokenizer.encode(text))).encode("utf-8", "surrogateescape") == content


def test_the_python_of_a_model_of_bytes_is_scored(folder: Path) -> None:
    done = run("predict.py", "score", "--checkpoint", str(folder / "bytes.ckpt"), "--samples", "2", "--length", "40")
    assert done.returncode == 0 and "of 2 samples" in done.stdout


def test_unknown_words_can_be_left_out_of_what_is_written(folder: Path) -> None:
    many = ["--prompt", "one", "--length", "200", "--temperature", "3"]
    assert "<unk>" in generate(folder, "words", *many).stdout
    assert "<unk>" not in generate(folder, "words", *many, "--leave_out_unknown").stdout


@pytest.mark.parametrize("text", ["a\u202eb", "a\u2066b", "a\x1bb", "a\udcffb", "a\x9bb"])
def test_nothing_reaches_a_terminal_that_changes_it(text: str) -> None:
    shown = harmless(text)
    assert text[1] not in shown and shown[0] == "a" and shown[-1] == "b" and shown.encode()
    assert harmless("ab\n\té\u200d") == "ab\n\té\u200d"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "a", "--prompt_file", "b"], "--prompt and --prompt_file both give a prompt"),
        (["--prompt_file", "none.txt"], "none.txt: no such file; give a text file with --prompt_file"),
        (["--prompt_file", "."], ".: is a folder; give one text file with --prompt_file"),
        (["--prompt_file", "characters.ckpt"], "characters.ckpt: byte"),
        (["--prompt_file", os.devnull], "is a device or a pipe; give --prompt_file a file, or - for standard input"),
        (["--prompt_file", "a.txt", "--encoding", ""], "there is no encoding ''; --encoding takes names such as"),
        (["--prompt_file", "a.txt", "--encoding", "utf-16"], "name its encoding with --encoding"),
        (["--prompt_file", "-"], "the prompt is empty"),
        (["--seed", str(10**30)], "seed is 1000000000000000000000000000000: with 1 samples it must be"),
        (["--count", "0"], "the number of samples is 0"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "a.txt").write_text("abc")
    done = generate(folder, "characters", *arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert message in done.stderr, done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_pipe_with_a_name_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for given in ("--prompt_file", "--checkpoint"):
        done = generate(folder, "characters", given, str(tmp_path / "pipe"))
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "pipe" in done.stderr


def test_very_many_texts_are_written_as_they_are_drawn(folder: Path) -> None:
    options = predict.parse_arguments(
        ["generate", "--checkpoint", str(folder / "characters.ckpt"), "--length", "3", "--count", str(10**7)]
    )
    pieces = iter(predict.written(options.generate))
    assert next(pieces) == "" and next(pieces) == "=== seed 0 ===\n"


def test_texts_to_classify_come_from_files_tables_and_standard_input(folder: Path, tmp_path: Path) -> None:
    expected = classify(folder, "it is good", "good, good").stdout
    assert expected.count("looked at") == 2
    contents = {
        "lines.txt": b"it is good\n\ngood, good\n",
        "table.csv": b'id,text\n1,it is good\n2,"good, good"\n',
        "table.tsv": b"sentence\nit is good\ngood, good\n",
        "table.jsonl": b'{"text": "it is good"}\n{"text": "good, good"}\n',
        "latin.txt": "it is good\ngood, good".encode("utf-16"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        encoding = ["--encoding", "utf-16"] if name == "latin.txt" else []
        assert classify(folder, "--file", str(tmp_path / name), *encoding).stdout == expected, name
    assert classify(folder, "--file", "-", stdin="it is good\ngood, good").stdout == expected
    assert classify(folder, "--file", str(tmp_path / "table.csv"), "--text_column", "1").stdout == expected


def test_verdicts_for_programs(folder: Path) -> None:
    texts = ["it is good", "zzz, “qqq”"]
    done = classify(folder, *texts, "--to", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["text"] for row in rows] == texts and [row["unknown_words"] for row in rows] == ["0", "5"]
    assert list(rows[0]) == ["text", "label", "words", "unknown_words", "p(bad)", "p(good)"]
    objects = [json.loads(line) for line in classify(folder, *texts, "--to", "json").stdout.splitlines()]
    for row, facts in zip(rows, objects, strict=True):
        assert facts["text"] == row["text"] and facts["label"] == row["label"] and facts["words"] == int(row["words"])
        assert facts["probabilities"]["bad"] == pytest.approx(float(row["p(bad)"]), abs=1e-6)
        assert facts["probabilities"][facts["label"]] == max(facts["probabilities"].values())
        assert facts["looked_at"][0]["word"] in facts["text"]


def test_a_text_of_unknown_words_is_said_to_be_one(folder: Path) -> None:
    assert "looked at nothing: the model knows no word of this text" in classify(folder, "zzz qqq").stdout
    assert "knows no word" not in classify(folder, "zzz good").stdout


def test_what_was_looked_at_in_a_long_text_is_named(folder: Path) -> None:
    looks = classify(folder, "good it is " * 300).stdout.splitlines()[2]
    assert looks.strip().startswith("looked at ") and "%" in looks


def test_many_texts_are_classified_as_each_alone(folder: Path) -> None:
    texts = [f"it is {'good ' * (number % 5)}" for number in range(150)]
    done = classify(folder, "--file", "-", "--to", "json", stdin="\n".join(texts))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    alone = [json.loads(classify(folder, text, "--to", "json").stdout) for text in texts[:5]]
    assert [facts["text"] for facts in found] == texts
    for number, facts in enumerate(found):
        for label, share in alone[number % 5]["probabilities"].items():
            assert facts["probabilities"][label] == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give texts, each in quotes, or --file FILE"),
        (["good", "--file", "-"], "give texts, each in quotes, or --file FILE"),
        (["--file", "-"], "-: has no texts"),
        (["--file", "none.csv"], "none.csv: no such file"),
        (["good", "--to", "xml"], "xml"),
    ],
)
def test_a_mistake_in_classifying_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    done = classify(folder, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr and done.stdout == ""


def test_texts_that_begin_with_dashes_follow_two_dashes(folder: Path) -> None:
    assert classify(folder, "--", "--good", "--it").stdout.count("looked at") == 2
    assert classify(folder, "-- it is good").returncode == 0


@pytest.mark.parametrize("model", ["bytes", "characters"])
def test_the_page_reads_any_file_that_was_trained_on(folder: Path, tmp_path: Path, model: str) -> None:
    content = NOT_UTF_8 * 3 if model == "bytes" else codecs_text()
    (tmp_path / "text.bin.gz").write_bytes(gzip.compress(content))
    given = ["--checkpoint", str(folder / f"{model}.ckpt"), "--text", str(tmp_path / "text.bin.gz")]
    more = [] if model == "bytes" else ["--encoding", "utf-16"]
    done = run("explore.py", *given, *more, "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["text"]
    assert len(read) == len(NOT_UTF_8) * 3 if model == "bytes" else "".join(read) == "a\nb é" * 4


def codecs_text() -> bytes:
    """With a byte order mark and line ends of two characters."""
    return ("a\r\nb é" * 4).encode("utf-16")


def test_the_page_takes_a_text_with_dashes_and_refuses_devices(folder: Path, tmp_path: Path) -> None:
    given = ["--checkpoint", str(folder / "characters.ckpt"), "--text"]
    assert run("explore.py", *given, "--aaa", cwd=tmp_path).returncode == 0
    assert run("explore.py", *given, "-", cwd=tmp_path, stdin="ab ab").returncode == 0
    done = run("explore.py", *given, os.devnull, cwd=tmp_path)
    assert done.returncode == 2 and "is a device or a pipe" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "sizes", [{"hidden_size": 10**6}, {"embedding_size": 10**8}, {"num_layers": 10**8}, {"hidden_size": 10**5}]
)
def test_a_model_that_no_memory_can_hold_is_refused_before_it_is_made(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="make a model of .* weights; there may be at most 1,000 layers"):
        LanguageModel(5, **{"hidden_size": 4} | sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights; there may be at most"):
        Classifier(5, 2, **{"hidden_size": 4, "embedding_size": 3} | sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "one_line"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (MemoryError("Unable to allocate 745. GiB"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), True),
        (RuntimeError("another error"), False),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, one_line: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit if one_line else RuntimeError), in_one_line("train.py", 2, ValueError):
        raise error
    printed = capsys.readouterr().err
    assert printed.startswith("train.py: there is not enough memory: choose a smaller model") is one_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.path", ""], "--data.path is empty: give it a text file, or leave it out"),
        (["--data.encoding", ""], "there is no encoding ''; --data.encoding takes names such as utf-8"),
        (
            ["--data.vocabulary_size", str(10**20)],
            "--data.vocabulary_size is 100000000000000000000: it must be at",
        ),
        (["--ckpt_path", ""], "--ckpt_path is empty: give it a checkpoint, or leave it out"),
        (["--data.path", os.devnull], "cannot be read twice: give a file that holds the text"),
        (["--task", "classify", "--data.path", ""], "--data.path is empty: give it a table, or leave it out"),
    ],
)
def test_empty_and_endless_arguments_of_training_are_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    config = tmp_path / "small.yaml"
    config.write_text("seed_everything: 1\ntrainer: {accelerator: cpu, max_steps: 1}\n" + "data: {batch_size: 1}\n")
    given = [] if "--task" in arguments or "--data.path" in arguments else ["--data.corpus", "memorise"]
    done = run("train.py", "--config", str(config), *given, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_more_held_out_streams_than_symbols_are_as_many_as_there_are() -> None:
    data = TextDataModule(corpus="memorise", batch_size=1, window=25, val_streams=10**11)
    assert len(data.val_streams.starts) == len(data._encoded.held_out) - 1


@pytest.mark.parametrize("kind", ["foreign", "damaged", "empty", "pickled", "one array", "cut"])
def test_a_foreign_file_of_gradients_is_left_out_with_a_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "flow.npz"
    if kind == "foreign":
        np.savez(path, a=np.zeros(3))
    elif kind == "pickled":
        np.savez(path, epochs=np.array([{}], dtype=object))
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "cut":
        np.savez(path, epochs=np.zeros(1000))
        path.write_bytes(path.read_bytes()[:-400])
    else:
        path.write_bytes(b"" if kind == "empty" else b"PK\x03\x04 no archive")
    assert read_flow(path) is None


def test_the_gradients_of_a_run_are_read(tmp_path: Path) -> None:
    layer = {"h": np.zeros((2, 4)), "histograms": np.zeros((2, 4, 3), np.uint16), "largest_singular_value": np.ones(2)}
    arrays = {f"layers.0.{name}": values for name, values in layer.items()}
    np.savez(tmp_path / "flow.npz", epochs=np.arange(2), clipped=np.zeros(2), **arrays)
    assert set(read_flow(tmp_path / "flow.npz") or {}) == {"epochs", "clipped", *arrays}
