"""What `python -m benchmarks gpu` measures, each part in a process of its own: `benchmarks.gpu` starts them.

python -m benchmarks.gpu_parts PART FOLDER DEVICE DRY_RUN SECONDS
"""

import csv
import gc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor

from benchmarks import gpu_rows, training
from benchmarks.gpu_rows import RESTART, UNFINISHED, Row
from benchmarks.layers import Pair, graph
from benchmarks.memory import rise
from benchmarks.pairs import in_turn, timed
from datamodules.text import TextDataModule
from models.language_model import LanguageModel
from models.recurrent import TORCH_LAYERS, Recurrent

ROOT = Path(__file__).parents[1]
Todo = dict[str, Callable[[], Row]]
MARGINS = {"large": 65}  # seconds: a row is begun only while as many are left
MARGIN = 12


class Context(NamedTuple):
    folder: Path
    device: str
    dry_run: bool
    end: float  # of the part's time, by time.monotonic


def main() -> None:
    part, folder, device, dry_run, seconds = sys.argv[1:]
    context = Context(Path(folder), device, dry_run == "1", time.monotonic() + float(seconds))
    path, deadline = context.folder / f"{part}.jsonl", context.end - MARGINS.get(part, MARGIN)
    if part == "tests":
        raise SystemExit(run_tests(path, deadline, context.dry_run))
    gpu_rows.measure(path, TODO[part](context), deadline)
    shutil.rmtree(context.folder / part, ignore_errors=True)


# Environment.


def environment(context: Context) -> Todo:
    return {
        "GPU": gpu,
        "driver": driver,
        "processor": lambda: {"note": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"},
        "system": lambda: {"note": f"{platform.platform()}, Python {platform.python_version()}"},
        "CUDA and cuDNN": lambda: {"note": f"{torch.version.cuda}, {torch.backends.cudnn.version()}"},
        **{name: partial(package, name) for name in ("torch", "triton", "pytorch-lightning", "numpy", "pytest")},
    }


def gpu() -> Row:
    if not torch.cuda.is_available():
        return {"note": "none"}
    properties = torch.cuda.get_device_properties(0)
    memory = f"{properties.total_memory / 1e9:.0f} GB"
    capability = f"compute capability {properties.major}.{properties.minor}"
    return {"note": f"{properties.name}, {memory}, {properties.multi_processor_count} multiprocessors, {capability}"}


def driver() -> Row:
    if not (command := shutil.which("nvidia-smi")):
        return {"note": "nvidia-smi is not installed"}
    query = [command, "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    return {"note": "; ".join(found.stdout.splitlines())}


def package(name: str) -> Row:
    try:
        return {"note": version(name)}
    except PackageNotFoundError:
        return {"note": "not installed"}


# Tests.


class Recorder:
    """A plugin of pytest: writes a row for each test, and leaves out tests that have one."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path, self.deadline = path, deadline

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        known = gpu_rows.read(self.path)
        items[:] = [item for item in items if item.nodeid not in known]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            gpu_rows.append(self.path, {"row": report.nodeid, "error": reason(report)})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if time.monotonic() > self.deadline:
            stop("the time is up", UNFINISHED)
        gpu_rows.begin(self.path, nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        row = {"row": report.nodeid, "seconds": round(report.duration, 3)}
        if report.failed:
            gpu_rows.append(self.path, row | {"error": reason(report)})
            if not gpu_rows.gpu_answers():
                stop("the GPU answers no more", RESTART)
        elif report.skipped:
            gpu_rows.append(self.path, row | {"note": f"skipped: {report.longrepr[-1]}"})
        elif report.when == "call":
            gpu_rows.append(self.path, row | {"note": "passed"})


def stop(why: str, code: int) -> None:
    import pytest  # it need not be installed for the other parts

    pytest.exit(why, code)


def reason(report: Any) -> str:
    """The line of a failure that pytest would print in its summary."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longreprtext).strip().splitlines()
    return " ".join(lines[:1] if crash else lines[-1:])[:300] or "failed"


def run_tests(path: Path, deadline: float, dry_run: bool) -> int:
    """The exit code for the part: 0 where all tests have a row, be they passed or not."""
    import pytest

    only = [str(ROOT / "tests/datamodules/test_streams.py")] if dry_run else [str(ROOT / "tests")]
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--rootdir={ROOT}"]
    code = int(pytest.main([*options, *only], plugins=[Recorder(path, deadline)]))
    has_rows = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    return 0 if code in has_rows else code


# CUDA graphs against plain updates.


class Captured(pl.Callback):
    """Whether updates are replayed, and the most memory that tensors had, in MB."""

    def __init__(self) -> None:
        self.replays, self.peak = False, 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *of_the_update: Any) -> None:
        self.replays = pl_module.graphed is not None and pl_module.graphed.graphed.replay is not None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.device.type == "cuda":
            self.peak = torch.cuda.max_memory_reserved(pl_module.device) / 1e6


def updates(context: Context) -> Todo:
    (context.folder / "updates").mkdir(exist_ok=True)
    text = context.folder / "updates/text.txt"
    write_corpus(text, 20_000 if context.dry_run else 4_000_000)
    small = {"embedding_size": 64, "hidden_size": 128}
    data = {"batch_size": 32, "window": 64}
    configs: dict[str, Row] = {
        "LSTM 1×128, B 32, T 64, float32": {"model": small, "data": data, "trainer": {}},
        "GRU 2×256, B 64, T 128, bfloat16": {
            "model": {"cell": "gru", "num_layers": 2, "embedding_size": 256, "hidden_size": 256, "dropout": 0.2},
            "data": {"batch_size": 64, "window": 128},
            "trainer": {"precision": "bf16-mixed"},
        },
        "configs/lstm.yaml": from_yaml("lstm"),
        "configs/large.yaml": from_yaml("large"),
    }
    return {name: partial(captured_against_plain, config, text, context) for name, config in configs.items()}


def from_yaml(name: str) -> Row:
    content: Row = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text(encoding="utf-8"))
    return content


def captured_against_plain(config: Row, text: Path, context: Context) -> Row:
    """Milliseconds an update; whether both leave the same weights, which atomic additions need not."""
    model_options, data_options = dict(config["model"]), dict(config["data"]) | {"corpus": "memorise"}
    options = config["trainer"] | {"accelerator": "gpu" if context.device == "cuda" else "cpu", "devices": 1}
    training.WARM_UP, training.UPDATES = 6, 3 if context.dry_run else 20  # the fifth update is the first replay
    if context.dry_run:
        model_options |= {"hidden_size": 8, "embedding_size": 8}
        data_options |= {"batch_size": 2, "window": 4}
    weights: dict[bool, dict[str, Tensor]] = {}
    seen: dict[bool, Captured] = {}

    def seconds(graphs: bool) -> float:
        pl.seed_everything(1)
        if context.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        data = TextDataModule(path=str(text), **data_options)
        model, seen[graphs] = LanguageModel(data.vocab_size, **model_options, cuda_graph=graphs), Captured()
        with tempfile.TemporaryDirectory() as folder:
            found = training.by_lightning(model, data, options, Path(folder) / "run/version_0", seen[graphs])
        weights[graphs] = {name: value.cpu() for name, value in model.state_dict().items()}
        return found

    found = in_turn(partial(seconds, True), partial(seconds, False), 2).scaled(1e3 / training.UPDATES)
    note = f"replayed: {'yes' if seen[True].replays else 'NO'}; {compared(weights[True], weights[False])}"
    if context.device == "cuda":
        note += f"; memory reserved {seen[True].peak:,.0f} MB, plain {seen[False].peak:,.0f} MB"
    return {**asdict(found), "unit": "ms", "note": note}


def compared(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    if all(torch.equal(value, theirs[name]) for name, value in ours.items()):
        return "weights have the same bits"
    largest = max(float((value - theirs[name]).norm() / theirs[name].norm()) for name, value in ours.items())
    return f"weights differ by at most {largest:.1e} of a tensor's norm"


# Layers against cuDNN.


class Shape(NamedTuple):
    backend: str
    cell: str
    dtype: str  # bfloat16 under autocast; tf32: float32 whose products round their factors
    L: int
    H: int
    B: int
    T: int

    def __str__(self) -> str:
        return f"{self.cell.upper()} {self.L}×{self.H}, B {self.B}, T {self.T}, {self.dtype}, {self.backend}"


SHAPES = [
    Shape("fused", "lstm", "bfloat16", 1, 256, 64, 128),
    Shape("fused", "lstm", "bfloat16", 1, 1024, 128, 256),
    Shape("fused", "lstm", "bfloat16", 3, 1024, 128, 256),
    Shape("fused", "lstm", "tf32", 1, 256, 64, 128),
    Shape("fused", "lstm", "tf32", 2, 512, 128, 128),
    Shape("fused", "gru", "bfloat16", 1, 256, 64, 128),
    Shape("fused", "gru", "tf32", 1, 512, 128, 128),
    Shape("fused", "rnn", "tf32", 1, 256, 64, 128),
    Shape("triton", "lstm", "bfloat16", 1, 256, 64, 128),
    Shape("triton", "lstm", "bfloat16", 1, 512, 64, 128),
    Shape("triton", "lstm", "bfloat16", 1, 512, 256, 512),
    Shape("triton", "lstm", "bfloat16", 1, 1024, 128, 256),
    Shape("triton", "lstm", "bfloat16", 1, 2048, 512, 128),
    Shape("triton", "lstm", "bfloat16", 2, 512, 64, 256),
    Shape("triton", "lstm", "bfloat16", 3, 1024, 128, 256),
    Shape("triton", "lstm", "tf32", 1, 256, 64, 128),
    Shape("triton", "lstm", "tf32", 1, 512, 64, 128),
    Shape("triton", "lstm", "tf32", 1, 1024, 128, 256),
    Shape("triton", "lstm", "tf32", 2, 512, 128, 128),
    Shape("triton", "gru", "bfloat16", 1, 256, 64, 128),
    Shape("triton", "gru", "bfloat16", 1, 512, 128, 128),
    Shape("triton", "gru", "bfloat16", 2, 1024, 128, 256),
    Shape("triton", "gru", "tf32", 1, 512, 128, 128),
    Shape("triton", "rnn", "bfloat16", 1, 256, 64, 128),
]
PAIRS = 5


def layers(context: Context) -> Todo:
    return {str(shape): partial(against_cudnn, shape, context) for shape in SHAPES}


def against_cudnn(shape: Shape, context: Context) -> Row:
    """Forward and backward on dense input, in ms, eagerly and as a CUDA graph each; theirs is nn.LSTM, GRU or RNN."""
    if shape.backend == "triton" and context.device != "cuda":
        return {"note": "not measured: it needs a GPU"}
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.rnn.fp32_precision = "tf32"  # type: ignore[attr-defined]  # as that of matrix products
    sizes = shape._replace(L=1, H=16, B=2, T=3) if context.dry_run else shape
    sides = ours_and_theirs(sizes, context.device)
    modes: Row = {}
    for mode in ("eager", "CUDA graph"):
        try:
            modes[mode] = in_mode(mode, *sides, context.device)
        except Exception as error:
            modes[mode] = {"error": gpu_rows.one_line(error)}
            if not gpu_rows.gpu_answers():
                return {"modes": modes, "error": "the GPU answers no more"}
            if context.device == "cuda":
                torch.cuda.set_stream(torch.cuda.default_stream())  # a capture that failed may leave its own
    del sides
    gc.collect()
    if context.device == "cuda":
        torch.cuda.empty_cache()
    return {**shape._asdict(), "modes": modes}


def ours_and_theirs(shape: Shape, device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    theirs = TORCH_LAYERS[shape.cell](shape.H, shape.H, shape.L, device=device)
    ours = Recurrent.from_torch(theirs)
    ours.backend = shape.backend
    x, d = torch.randn(2, shape.T, shape.B, shape.H, device=device).unbind()
    x.requires_grad_()

    def run(side: Any) -> None:
        x.grad = None
        for parameter in side.parameters():
            parameter.grad = None
        bfloat16 = shape.dtype == "bfloat16"
        with torch.autocast(device, torch.bfloat16) if bfloat16 else nullcontext():
            output = side(x)[0]
        output.backward(d.to(output.dtype))

    return partial(run, ours), partial(run, theirs)


def in_mode(mode: str, ours: Callable[[], None], theirs: Callable[[], None], device: str) -> Row:
    if mode == "CUDA graph" and device != "cuda":
        return {"note": "not measured: it needs a GPU"}
    if mode == "CUDA graph":
        ours, theirs = graph(ours), graph(theirs)
    for run in (ours, theirs) * 2:  # to warm up
        run()
    threads = torch.get_num_threads()
    found = in_turn(partial(timed, ours, threads), partial(timed, theirs, threads), PAIRS)
    return {**asdict(found.scaled(1e3)), "unit": "ms"}


# Memory.


def memory(context: Context) -> Todo:
    sizes = [(3, 2, 4)] if context.dry_run else [(128, 64, 256), (128, 128, 1024), (256, 128, 2048)]
    return {f"LSTM on tokens, H {H}, B {B}, T {T}": partial(peaks, T, B, H, context.device) for T, B, H in sizes}


def peaks(T: int, B: int, H: int, device: str) -> Row:
    """MB by which a step forward and backward raises the memory that is in use."""
    pair = Pair("lstm", T, B, H, device=device)

    def step(run: Callable[[], None]) -> None:
        run()
        pair.forget()

    ours, theirs = (rise(partial(step, run), device) / 1e6 for run in pair.runs("tokens"))
    return {"ours": ours, "theirs": theirs, "unit": "MB", **({"ratio": theirs / ours} if ours else {})}


# configs/large.yaml.


def large(context: Context) -> Todo:
    place = context.folder / "large"
    place.mkdir(exist_ok=True)
    os.environ["UNROLLED_CACHE"] = str(place / "cache")
    text, size = place / "corpus.txt", 200_000 if context.dry_run else 10**9
    return {
        "the corpus": partial(generate, text, size),
        "its encoding": partial(encode, text, size),
        "configs/large.yaml": partial(train, text, size, context),
    }


def generate(text: Path, size: int) -> Row:
    began = time.monotonic()
    write_corpus(text, size)
    return {"note": f"{size / 1e6:,.1f} MB generated in {time.monotonic() - began:.1f} s"}


def encode(text: Path, size: int) -> Row:
    began = time.monotonic()
    windows = len(data_of(text).train_streams)
    seconds = time.monotonic() - began
    return {"ours": size / 1e6 / seconds, "unit": "MB/s", "note": f"{seconds:.1f} s, {windows:,} windows of 64"}


def data_of(text: Path) -> TextDataModule:
    return TextDataModule(path=str(text), level="byte", val_fraction=HELD_OUT)


HELD_OUT = 0.002  # of the text: so much is validated in seconds
TRAINED_FOR, AFTERWARDS = 120, 40  # seconds of training, and of what comes before and after it
TINY = {
    "model.hidden_size": 16, "model.embedding_size": 16, "model.num_layers": 1, "trainer.max_steps": 4,
    "trainer.precision": "32-true", "trainer.log_every_n_steps": 1, "data.batch_size": 4, "data.window": 8,
    "data.val_streams": 4,
}  # fmt: skip


def train(text: Path, size: int, context: Context) -> Row:
    """Calls train.py, which validates and writes its checkpoints when its time is up."""
    write_corpus(text, size)
    left = context.end - time.monotonic()
    seconds = int(min(TRAINED_FOR, left - AFTERWARDS))
    runs = context.folder / "large/runs"
    shutil.rmtree(runs, ignore_errors=True)
    options = {
        "config": ROOT / "configs/large.yaml", "data.path": text, "data.val_fraction": HELD_OUT,
        "trainer.max_time": f"00:00:{seconds // 60:02}:{seconds % 60:02}", "trainer.default_root_dir": runs,
        "trainer.devices": 1, "trainer.accelerator": "gpu" if context.device == "cuda" else "cpu",
        "trainer.enable_progress_bar": "false", **(TINY if context.dry_run else {}),
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "train.py"), *(f"--{name}={value}" for name, value in options.items())]
    try:
        run = subprocess.run(
            command, cwd=context.folder / "large", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=left - 5,
        )  # fmt: skip
        printed, error = run.stdout, {} if run.returncode == 0 else {"error": f"exit code {run.returncode}"}
    except subprocess.TimeoutExpired as expired:
        printed, error = expired.stdout or b"", {"error": "it did not end in time"}
    lines = printed.decode(errors="replace").splitlines()
    print(*lines, sep="\n")
    if error and lines:
        error["error"] += f": {lines[-1][:200]}"
    graphs = [line for line in lines if "CUDA graphs" in line]
    found = figures(next(iter(runs.glob("*/version_*/metrics.csv")), None))
    return found | {"note": "; ".join([found.get("note", "no metrics"), f"max_time {seconds} s", *graphs])} | error


def figures(path: Path | None) -> Row:
    """The last figures of a metrics.csv, as far as there are any."""
    if path is None:
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    last = {name: value for row in rows for name, value in row.items() if value}
    names = {"step": "updates", "val_bpc": "bits held out", "peak_memory_mb": "MB at most"}
    note = ", ".join(f"{float(last[name]):,.6g} {what}" for name, what in names.items() if name in last)
    speed = {"ours": float(last["tokens_per_second"])} if "tokens_per_second" in last else {}
    return {**speed, "unit": "tokens/s", "note": note}


# Text.

PIECES, WIDTH, AT_ONCE = 4096, 8, 1 << 21


def write_corpus(path: Path, size: int, seed: int = 0) -> None:
    """Writes about `size` bytes of lines of short words, of which a few are frequent; nothing where they are there."""
    size -= size % WIDTH
    if path.exists() and path.stat().st_size == size:
        return
    rng = np.random.default_rng(seed)
    pieces = rng.integers(ord("a"), ord("z") + 1, (PIECES, WIDTH), dtype=np.uint8)
    pieces[np.arange(PIECES), rng.integers(1, WIDTH - 2, PIECES)] = ord(" ")  # two words
    pieces[:, -1] = np.where(rng.random(PIECES) < 0.1, ord("\n"), ord(" "))
    with path.open("wb") as file:
        for begin in range(0, size // WIDTH, AT_ONCE):
            count = min(AT_ONCE, size // WIDTH - begin)
            places = np.power(PIECES, rng.random(count, dtype=np.float32)).astype(np.int64) - 1  # as Zipf's law has it
            file.write(pieces[places.clip(0, PIECES - 1)])


TODO: dict[str, Callable[[Context], Todo]] = {
    "environment": environment, "updates": updates, "layers": layers, "memory": memory, "large": large,
}  # fmt: skip


if __name__ == "__main__":
    main()
