"""How tests call the scripts: `run` in this process, which takes no time to start, `start` in a process of its own."""

import contextlib
import importlib
import io
import os
import random
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent


def run(
    script: str,
    *arguments: str,
    cwd: Path = ROOT,
    stdin: str | bytes = "",
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Calls main() of a script with these arguments, and returns what it printed and its exit code.

    Streams, working folder, environment, warnings, signal handlers and random states are those of a new process, and
    afterwards those of before. An exception that main() lets through is printed as Python prints it, with exit code 1.
    Output that bypasses sys.stdout and sys.stderr is not captured.
    """
    module = importlib.import_module(Path(script).stem)
    content = stdin.encode() if isinstance(stdin, str) else stdin
    streams = {"stdin": text_stream(content), "stdout": text_stream(), "stderr": text_stream()}
    with like_a_new_process(streams, [str(ROOT / script), *arguments], cwd, env or {}):
        code = exit_code(module.main)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):  # it is closed
                stream.flush()
    printed = {name: streams[name].buffer.getvalue().decode("utf-8", "replace") for name in ("stdout", "stderr")}
    return subprocess.CompletedProcess([script, *arguments], code, **printed)


def start(script: str, *arguments: str, cwd: Path = ROOT, **options: Any) -> subprocess.Popen[str]:
    """Starts a script in a process of its own, with one thread. Its output is piped unless `options` say otherwise."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, str(ROOT / script), *arguments], cwd=cwd, env=environment, **pipes)


class Kept(io.BytesIO):
    """Bytes that can be read after the stream on them was closed."""

    def close(self) -> None:
        pass


def text_stream(content: bytes = b"") -> Any:
    return io.TextIOWrapper(Kept(content), encoding="utf-8", write_through=True)


def exit_code(main: Any) -> int:
    try:
        main()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def like_a_new_process(streams: dict[str, Any], argv: list[str], cwd: Path, env: Mapping[str, str]) -> Iterator[None]:
    before = {name: getattr(sys, name) for name in ("argv", *streams)}
    environment, folder = dict(os.environ), os.getcwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings():
            warnings.resetwarnings()
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)
            warnings.showwarning = show_warning
            for name, value in {"argv": argv, **streams}.items():
                setattr(sys, name, value)
            os.environ.update(env)
            os.chdir(cwd)
            yield
    finally:
        for name, value in before.items():
            setattr(sys, name, value)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic)


def show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))
