"""A generated text of any size: how fast it is encoded, in how much memory, and what a kill or a second process costs.

Each measurement is a process of its own. Memory is the peak resident memory of that process, less that of one which
encodes a text of 1 MB. The first update is counted from the start of the process, the import of torch included, and
from the moment the data is asked for.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import resident

BLOCK = 1 << 26  # bytes that are drawn; a text repeats them, each time from another position on
SMALL = 10**6
LETTERS = "etaoinshrdlcumwfgypbvkjxqzéöß"
COMMANDS = ("encode", "update")


def block(seed: int) -> bytes:
    """Words of one to ten letters, the n-th drawn in proportion to 1/n, in lines of about ten."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 11))) for _ in range(30_000)]
    ends = np.array([f"{word} ".encode() for word in words] + [b"\n"], dtype=object)
    shares = 1 / np.arange(1, len(ends) + 1)
    shares[-1] = shares.sum() / 10
    text = b"".join(ends[rng.choice(len(ends), BLOCK // 5, p=shares / shares.sum())])
    return text[: text.rindex(b"\n", 0, BLOCK) + 1]


def write_text(path: Path, size: int, seed: int = 0) -> None:
    """A text of about so many bytes."""
    text, rng, written = block(seed), np.random.default_rng(seed), 0
    with path.open("wb") as file:
        while written < size:
            start = text.index(b"\n", int(rng.integers(0, len(text) // 2))) + 1
            whole = (text[start:] + text[:start])[: size - written]
            written += file.write(whole[: whole.rfind(b"\n") + 1] or b"\n")


def rows(bytes: float, level: str, folder: Path) -> Iterator[tuple[str, str]]:
    """What was measured, and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    text, small = folder / "text.txt", folder / "small.txt"
    write_text(small, SMALL)
    if not text.exists() or abs(text.stat().st_size - bytes) > BLOCK:
        write_text(text, int(bytes))
    of_small = run("encode", small, level, empty(folder / "small"))
    whole = run("encode", text, level, empty(folder / "whole"))
    yield "encoding", f"{text.stat().st_size / 1e6 / whole['seconds']:.0f} MB/s, {whole['seconds']:.0f} s"
    yield "memory above that for 1 MB", f"{whole['peak_mb'] - of_small['peak_mb']:.0f} MB"
    again = run("update", text, level, folder / "whole")
    yield "first update, cached", f"{again['seconds']:.1f} s; from the start of the process {again['process']:.1f} s"
    yield "memory of training, cached", f"{again['peak_mb']:.0f} MB"
    killed = start("encode", text, level, empty(folder / "killed"))
    time.sleep(0.75 * whole["seconds"])
    killed.kill()
    killed.communicate()
    after = run("encode", text, level, folder / "killed")
    yield "encoding after a kill at 75%", f"{after['seconds']:.0f} s; {same(whole, after)}"
    both = [start("encode", text, level, folder / "two" if number else empty(folder / "two")) for number in range(2)]
    yield "two processes at once", "; ".join(same(whole, result(process)) for process in both)


def same(one: dict[str, Any], other: dict[str, Any]) -> str:
    return "the same numbers" if one["digest"] == other["digest"] else "OTHER NUMBERS"


def empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def start(command: str, text: Path, level: str, cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "UNROLLED_CACHE": str(cache.absolute()), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", __name__, command, str(text.absolute()), level, str(time.time())]
    root = Path(__file__).parents[1]
    return subprocess.Popen(arguments, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a measurement failed with exit code {process.returncode}")
    return dict(json.loads(printed.splitlines()[-1]))


def run(*arguments: Any) -> dict[str, Any]:
    return result(start(*arguments))


def measure(command: str, text: str, level: Any, began: str) -> dict[str, Any]:
    """In a process of its own."""
    import pytorch_lightning as pl

    from command_line import quiet
    from datamodules.text import TextDataModule
    from models.language_model import LanguageModel

    quiet()
    asked = time.perf_counter()
    data = TextDataModule(text, level=level, val_fraction=0.01)
    streams = data.train_streams
    digest = hashlib.sha256(b"".join(streams.at(place).tokens.numpy().tobytes() for place in (0, len(streams) - 1)))
    digest.update(repr((data.tokenizer.state(), len(streams))).encode())
    if command == "update":
        model = LanguageModel(data.vocab_size, embedding_size=16, hidden_size=32)
        off: Any = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        pl.Trainer(max_steps=1, limit_val_batches=0, accelerator="cpu", num_sanity_val_steps=0, **off).fit(model, data)
    seconds, process = time.perf_counter() - asked, time.time() - float(began)
    if command == "encode":
        for file in sorted(Path(os.environ["UNROLLED_CACHE"]).rglob("*.ids")):
            digest.update(digest_of(file))
    peak = resident("VmHWM") / 1e6  # getrusage would count what the parent had
    return {"seconds": seconds, "process": process, "peak_mb": peak, "digest": digest.hexdigest()}


def digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
