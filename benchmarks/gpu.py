"""Everything there is to measure on one GPU, in at most nine minutes: the tests that need a GPU, CUDA graphs against
plain updates, layers against cuDNN, memory, and configs/large.yaml on a text of 1 GB.

Each part runs in a process of its own with a time limit and writes PART.json; table.md has all rows. Called again with
the same folder, parts that are done are left out, and others go on with the row after the last. Nothing is installed or
downloaded. `--dry_run` makes everything tiny; with `--device cpu` it needs no GPU.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from benchmarks.gpu_rows import Row, read
from complete_files import complete_file

ROOT = Path(__file__).parents[1]
LIMIT = 525  # seconds: nine minutes, less what Python and torch need to start
PARTS = {"environment": 20, "tests": 140, "updates": 45, "layers": 105, "memory": 20, "large": 195}  # seconds
TO_START = 3  # seconds: with less left, no part begins
TO_END = 5  # seconds that a killed process is waited for
KILLED = -9
STALL = 45  # seconds without a new row, after which a process is taken to hang
DRY_RUN_LIMIT = 600  # seconds of each part: only there to end a hang
DONE, UNFINISHED, FAILED = "done", "unfinished", "failed"


def measure(out: str, device: str, dry_run: bool) -> None:
    """Raises ValueError where the folder holds results of another kind of run."""
    folder, settings = Path(out), {"device": device, "dry_run": dry_run}
    folder.mkdir(parents=True, exist_ok=True)
    results = {part: result_of(folder, part, settings) for part in PARTS}
    began = time.monotonic()
    for part, limit in PARTS.items():
        if results[part].get("status") == DONE:
            print(f"{part}: done before, in {folder / part}.json")
            continue
        left = LIMIT - (time.monotonic() - began)
        seconds = DRY_RUN_LIMIT if dry_run else min(limit, left)
        if seconds < TO_START:
            print(f"{part}: not begun, as nine minutes are over; run the command again to go on")
            continue
        print(f"{part}: at most {seconds:.0f} s", flush=True)
        results[part] = run_part(part, folder, settings, seconds)
        print(f"{part}: {in_words(results[part])}", flush=True)
    text = ("Dry run: all sizes are tiny, and no figure means anything.\n\n" if dry_run else "") + table(results)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nin {folder / 'table.md'}")


def result_of(folder: Path, part: str, settings: Row) -> Row:
    """What an earlier call has left of a part. Raises ValueError for a file that is damaged or of other settings."""
    path = folder / f"{part}.json"
    if not path.exists():
        return {}
    try:
        result: Row = json.loads(path.read_text(encoding="utf-8"))
        before = {name: result[name] for name in settings}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no result of this command: delete it or give another --out") from None
    if before != settings:
        raise ValueError(f"{path} was measured with {before}, not {settings}: give another --out")
    return result


def run_part(part: str, folder: Path, settings: Row, seconds: float) -> Row:
    """Runs a part's process, again and again as long as each gets further, until it is done or its time is up."""
    lines, deadline, began = folder / f"{part}.jsonl", time.monotonic() + seconds, time.monotonic()
    message, code = "", None
    with (folder / f"{part}.log").open("a", encoding="utf-8") as log:
        while (left := deadline - time.monotonic()) > TO_START:
            before = len(read(lines))
            code = run_process(part, folder, settings, left, log)
            if code == 0 or len(read(lines)) == before:
                break
    rows = list(read(lines).values())
    if code == 0:
        status = DONE
    elif rows:
        status = UNFINISHED
    else:
        status, message = FAILED, last_line(folder / f"{part}.log")
    result = {"part": part, "status": status, "message": message, **settings}
    result |= {"seconds": round(time.monotonic() - began, 1), "rows": rows}
    with complete_file(folder / f"{part}.json") as file:
        file.write((json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return result


def run_process(part: str, folder: Path, settings: Row, seconds: float, log: TextIO) -> int:
    """The exit code. The process and all that it started end when its time is up, or when it stalls."""
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part, str(folder.resolve()), settings["device"]]
    command += [str(int(settings["dry_run"])), str(seconds)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    lines, deadline = folder / f"{part}.jsonl", time.monotonic() + seconds
    size, grew = -1, time.monotonic()
    try:
        while process.poll() is None:
            now, size_now = time.monotonic(), lines.stat().st_size if lines.exists() else 0
            if size_now != size:
                size, grew = size_now, now
            stalls = part != "large" and not settings["dry_run"] and now - grew > STALL
            if now > deadline or stalls:
                break
            time.sleep(0.05)
    finally:
        end(process)
    return KILLED if process.returncode is None else process.returncode


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and what it started, where it has not ended. A driver may need long to end a kernel that hangs:
    the wait for it is short."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=TO_END)


def last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "the process ended without a word"


def in_words(result: Row) -> str:
    errors = sum("error" in one for row in result["rows"] for one in by_mode(row))
    again = "" if result["status"] == DONE else "; run the command again to go on"
    return f"{result['status']}, {len(result['rows'])} rows, {errors} with errors{again}"


def table(results: dict[str, Row]) -> str:
    """All rows in Markdown. Of the tests that passed, their number alone."""
    lines = ["| part | row | ours | theirs | ratio (quartiles) | |", "| --- | --- | --- | --- | --- | --- |"]
    for part in PARTS:
        result = results.get(part) or {"status": "not begun", "message": "", "rows": []}
        rows = summary_of_tests(result["rows"]) if part == "tests" else result["rows"]
        lines += [line_of(part, row) for one in rows for row in by_mode(one)]
        if result["status"] != DONE:
            lines.append(line_of(part, {"row": "", "note": " ".join([result["status"], result["message"]]).strip()}))
    return "\n".join(lines) + "\n"


def summary_of_tests(rows: list[Row]) -> list[Row]:
    failed = [row for row in rows if "error" in row]
    skipped = sum(row.get("note", "").startswith("skipped") for row in rows)
    passed = len(rows) - len(failed) - skipped
    return [{"row": "all", "note": f"{passed} passed, {len(failed)} failed, {skipped} skipped"}, *failed]


def by_mode(row: Row) -> list[Row]:
    """A row that was measured in several modes, as one row each."""
    modes = row.get("modes", {})
    return [{"row": f"{row['row']}, {mode}", **of_mode} for mode, of_mode in modes.items()] or [row]


def line_of(part: str, row: Row) -> str:
    """A row's figures; its error, or else its note."""
    ours, theirs = (figure(row[side], row.get("unit", "")) if side in row else "" for side in ("ours", "theirs"))
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    ratio += " ({low:.2f} to {high:.2f})".format_map(row) if "low" in row else ""
    remark = f"error: {row['error']}" if "error" in row else row.get("note", "")
    cells = [part, row["row"], ours, theirs, ratio, remark]
    return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"


def figure(value: Any, unit: str) -> str:
    text = value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()
