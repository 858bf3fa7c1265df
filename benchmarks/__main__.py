"""Ours against what one would use instead, side by side: a ratio above 1 says that ours are better.

python -m benchmarks layers|growth|training|generation|memory|numpy [--pairs N] [--device cuda] [--out FILE.json]
python -m benchmarks kills [--count 50]
python -m benchmarks flips [--count 1000]
python -m benchmarks corpora [--bytes 20e9] [--level character] [--folder DIR]
python -m benchmarks gpu --out DIR [--device cpu --dry_run]
python -m benchmarks readme [--pairs N] [--out FILE.json]
"""

import json
import platform
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from benchmarks import char_rnn, corpora, flips, generation, gpu, growth, kills, layers, memory, readme, training
from command_line import mistakes_in_one_line, quiet
from datamodules.tokenizers import Level

MEASUREMENTS: dict[str, Any] = {
    "layers": layers,
    "growth": growth,
    "training": training,
    "generation": generation,
    "memory": memory,
    "numpy": char_rnn,
}
ON_GPUS = ("layers", "training", "memory")
FIGURES = ("ours", "theirs", "ratio", "low", "high", "goal", "floor")  # of a row; what else it has says of what


def main() -> None:
    quiet()
    with mistakes_in_one_line("python -m benchmarks"):
        options = parse_arguments()
        given = options[options.subcommand].as_dict()
        if options.subcommand == "kills":
            killed(**given)
        elif options.subcommand == "flips":
            flipped(**given)
        elif options.subcommand == "corpora":
            for what, figure_of_it in corpora.rows(**given):
                print(f"{what:32}{figure_of_it}", flush=True)
        elif options.subcommand == "gpu":
            gpu.measure(**given)
        elif options.subcommand == "readme":
            beside_readme(**given)
        else:
            measure(MEASUREMENTS[options.subcommand], **given)


def parse_arguments() -> Any:
    """Raises ValueError for what cannot be measured."""
    parser = ArgumentParser(prog="python -m benchmarks", exit_on_error=False, description=first_sentence(__doc__))
    commands = parser.add_subcommands()
    for name, module in MEASUREMENTS.items():
        command = ArgumentParser(exit_on_error=False, description=module.__doc__)
        command.add_argument("--pairs", type=int, default=module.PAIRS, help="how often each side is measured")
        command.add_argument("--out", type=str | None, default=None, help="a JSON file: figures, machine, versions")
        if name in ON_GPUS:
            command.add_argument("--device", type=Literal["cpu", "cuda"], default="cpu")
        if name == "growth":
            command.add_argument("--plot", type=str | None, default=None, help="a PNG file: pictures of it")
        commands.add_subcommand(name, command, help=first_sentence(module.__doc__))
    command = ArgumentParser(exit_on_error=False, description=kills.__doc__)
    command.add_argument("--count", type=int, default=50, help="how often to kill")
    commands.add_subcommand("kills", command, help=first_sentence(kills.__doc__))
    command = ArgumentParser(exit_on_error=False, description=flips.__doc__)
    command.add_argument("--count", type=int, default=1000, help="how many bits to flip, each in a copy of the file")
    command.add_argument("--checkpoint", type=str, default=str(flips.SMALL), help="the file that is copied")
    commands.add_subcommand("flips", command, help=first_sentence(flips.__doc__))
    command = ArgumentParser(exit_on_error=False, description=corpora.__doc__)
    command.add_argument("--bytes", type=float, default=1e9, help="size of the text, which is generated")
    command.add_argument("--level", type=Level, default="character", help="what one symbol is")
    command.add_argument("--folder", type=Path, default=Path("corpora"), help="for the text and its encodings")
    commands.add_subcommand("corpora", command, help=first_sentence(corpora.__doc__))
    command = ArgumentParser(exit_on_error=False, description=gpu.__doc__)
    command.add_argument("--out", type=str, required=True, help="a folder: a JSON file for each part, and table.md")
    command.add_argument("--device", type=Literal["cuda", "cpu"], default="cuda", help="cpu is for --dry_run")
    command.add_argument("--dry_run", action="store_true", help="run every part in a tiny size, in seconds")
    commands.add_subcommand("gpu", command, help=first_sentence(gpu.__doc__))
    command = ArgumentParser(exit_on_error=False, description=readme.__doc__)
    command.add_argument("--pairs", type=int, default=readme.PAIRS, help="how often each side is measured")
    command.add_argument("--out", type=str | None, default=None, help="a JSON file: figures, machine, versions")
    commands.add_subcommand("readme", command, help=first_sentence(readme.__doc__))
    options = parser.parse_args()
    given = options[options.subcommand]
    if given.get("pairs", 2) < 2:
        raise ValueError(f"--pairs is {given.pairs}: quartiles need at least 2")
    if given.get("device") == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is cuda: there is no GPU here; leave it out")
    if options.subcommand == "gpu" and given.device == "cpu" and not given.dry_run:
        raise ValueError("--device is cpu: give --dry_run, too, or --device cuda")
    return options


def first_sentence(text: str | None) -> str:
    return " ".join(str(text).split()).split(". ")[0]


def measure(measurement: Any, out: str | None, plot: str | None = None, **given: Any) -> None:
    found = list(track(measurement.rows(**given), description="measuring", total=None, transient=True))
    print(measurement.__doc__)
    Console(width=120).print(table_of(found))
    if out:
        write(out, measurement, found)
    if plot:
        measurement.plot(found, plot)


def write(out: str, measurement: Any, found: list[dict[str, Any]]) -> None:
    about = {"measured": " ".join(measurement.__doc__.split()), **versions(), "machine": machine()}
    content = json.dumps(about | {"rows": found}, indent=1, ensure_ascii=False)
    Path(out).write_text(content + "\n", encoding="utf-8")


def beside_readme(pairs: int, out: str | None) -> None:
    found = list(track(readme.rows(pairs), description="measuring", total=None, transient=True))
    print("{processor}, {cores} cores, {threads} threads".format_map(machine()))
    table = Table("figure", "of", "README", "measured (quartiles)", "")
    for row in found:
        table.add_row(*map(escape, readme.lines(row)))
    Console(width=120).print(table)
    print("not measured:")
    for beginning, command in readme.NOT_MEASURED.items():
        print(f"    {beginning.strip('| :'):32}{command}")
    if out:
        write(out, readme, found)


def table_of(found: list[dict[str, Any]]) -> Table:
    """All rows of a measurement have the same names."""
    lines = []
    for row in found:
        line = {name: str(value) for name, value in row.items() if name not in FIGURES}
        line |= {"theirs": figure(row["theirs"]), "ours": figure(row["ours"])}
        line["ratio (quartiles)"] = "{ratio:.2f} ({low:.2f} to {high:.2f})".format_map(row)
        line |= {"goal": f"{row['goal'] or ''}"} if "goal" in row else {}
        if "floor" in row:
            line |= {"floor": figure(row["floor"]), "share of floor": f"{row['floor'] / row['ours']:.0%}"}
        lines.append(line)
    table = Table(*lines[0])
    for line in lines:
        table.add_row(*line.values())
    return table


def figure(value: float) -> str:
    """In three digits, or whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "numpy", "pytorch-lightning")}
    return {"python": platform.python_version(), **packages}


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if platform.system() == "Linux" else []
    models = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(models),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def killed(count: int) -> None:
    """Counts the kills whose run left what it would have left anyway, and starts two runs at the same moment."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(track(kills.runs(count, Path(folder)), description="killing", total=None, transient=True))
        together = kills.differences_of_two_at_once(Path(folder))
    good = sum(run.kills for run in found if not run.differences)
    phases = {phase for run in found for phase in run.phases} & kills.PHASES.keys()
    print(
        f"{good} of {count} kills, in {len(found)} runs and {len(phases)} of {len(kills.PHASES)} phases, left the same "
        f"files as a run without; {sum(run.in_writing for run in found)} came while a checkpoint was being written; "
        f"{sum(run.unreadable for run in found)} checkpoints were unreadable"
    )
    for run in found:
        print(*(f"differs after {', '.join(run.phases)}: {name}\n" for name in run.differences), sep="", end="")
    print("two runs at once left what each leaves alone" if not together else f"two runs at once: {together}")


def flipped(count: int, checkpoint: str) -> None:
    """Prints how often each outcome came. Exits with 1 if a checkpoint was loaded with other values."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Counter(flips.outcomes(Path(checkpoint), count, Path(folder)))
    for outcome in (flips.REFUSED, flips.UNCHANGED, flips.CHANGED):
        print(f"{outcome:25}{outcomes[outcome]:6}")
    if outcomes[flips.CHANGED]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
