"""Prove gradients: a stranger's, a model's, and those that the proof itself stands on."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from bptt.cells import CELLS
from bptt.verify.bounds import FORMATS
from bptt.verify.candidates import EXPECTED
from bptt.verify.cases import Arrays, Case
from bptt.verify.layouts import LAYOUTS, declared
from bptt.verify.matrix import COLUMNS, SETTINGS, cells_of, exact_cases, is_noticed, wrong_results
from bptt.verify.mutants import MUTANTS
from bptt.verify.precision import distances
from bptt.verify.trials import Request, ask, from_vectors, questions
from bptt.verify.vector_files import MANIFEST, write
from bptt.verify.verdict import Verdict, judge
from command_line import SuggestsOptions, mistakes_in_one_line
from models.escaping import harmless
from terminal import prepare_streams

CANDIDATES = f"""Exit code 0: right, 1: wrong, 2: could not be run. A candidate is
{"; ".join(f"a {kind}: {signature}" for kind, signature in EXPECTED.items())};
or, with --exec, any program that reads and writes files as bptt/verify/vectors/README.md describes."""


A_DAY = 86400.0
DEEPEST = 4  # layers of a candidate: whatever goes wrong between layers does so between few


def parse_arguments(arguments: list[str] | None = None) -> Any:
    parser = SuggestsOptions(description=__doc__, exit_on_error=False)
    commands = parser.add_subcommands()
    candidates = "is somebody's implementation right, or where is it wrong?"
    commands.add_subcommand("candidate", candidate_arguments(), help=candidates)
    model = ArgumentParser(description="Logits, loss and every gradient of its first window, float64, in both rooms.")
    model.add_argument("--config", type=str, required=True, help="configs/lstm.yaml, or another that train.py takes")
    model.add_argument("--data.path", type=str, help="a text file instead of the one the config names")
    commands.add_subcommand("model", model, help="a model of this project against its NumPy twin, on its own data")
    matrix = ArgumentParser(description="Two tables: bug × exact case, and bug × what others test with.")
    commands.add_subcommand(
        "mutants", matrix, help="which published bugs the exact cases catch, and others' tests miss"
    )
    precision = ArgumentParser(description="Distances from a 60-digit truth, in ULPs of the largest term summed.")
    commands.add_subcommand("precision", precision, help="how far float64, float32 and bfloat16 are from the truth")
    files = ArgumentParser(description="Cases with every result and intermediate, as JSON, text and .npz.")
    files.add_argument("folder", type=str, help="where to write them")
    commands.add_subcommand("vectors", files, help="write cases with every result, for any language")
    return parser.parse_args(arguments)


def one_of(names: Iterable[str]) -> Any:
    return Literal.__getitem__(tuple(names))


def candidate_arguments() -> ArgumentParser:
    parser = ArgumentParser(description=CANDIDATES)
    add = parser.add_argument
    add("target", type=str, nargs="?", help="path/to/file.py:name, or package.module:name")
    add("--exec", type=str, help="a command instead, such as './mine {case} {out}'")
    add("--cell", type=one_of(CELLS), required=True, help="what it computes")
    add("--layers", type=int, default=1, help="how deep the stack is")
    add("--dtype", type=one_of(FORMATS), default="float64", help="the arithmetic it is to be run in")
    add("--device", type=str, default="cpu", help="of torch: cpu, cuda, …")
    add("--layout", type=one_of(LAYOUTS), default="torch", help="whose names, gate order and shapes")
    add("--gates", type=str, help="their order, if it is another: ifog, say")
    add("--names", type=str, help="what it calls its parameters: weight_ih=W,bias_ih=layers.{layer}.b")
    add("--one_bias", action="store_true", help="it has no bias_hh")
    add("--transposed", action="store_true", help="its weights are (I, G·H) and (H, G·H)")
    add("--vectors", type=str, help="try it on the test vectors of this folder")
    add("--quick", action="store_true", help="four cases only")
    add("--json", action="store_true", help="the verdict for machines")
    add("--time_limit", type=float, default=60.0, help="seconds that each case may take")
    return parser


def check_candidate(options: Any) -> int:
    if bool(options.target) == bool(options.exec):
        raise ValueError("give either path/to/file.py:name or --exec 'program {case} {out}'")
    if not 1 <= options.layers <= DEEPEST or not 0 < options.time_limit <= A_DAY:
        raise ValueError(f"--layers must be 1 to {DEEPEST} and --time_limit more than 0, in seconds, and at most a day")
    pairs = [[part.strip() for part in pair.split("=")] for pair in (options.names or "").split(",") if pair.strip()]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(f"--names is {options.names!r}: write ours=theirs,ours=theirs")
    for side in zip(*pairs, strict=True):
        if len(set(side)) < len(side):
            raise ValueError(f"--names is {options.names!r}: each name can stand there once")
    layout = {
        "layout": options.layout, "gates": options.gates, "names": {ours: theirs for ours, theirs in pairs},
        "one_bias": options.one_bias, "transposed": options.transposed,
    }  # fmt: skip
    declared(options.cell, **layout)
    request = Request(
        options.target or options.exec, options.cell, options.exec is not None, options.layers, options.dtype,
        options.device, layout,
    )  # fmt: skip
    about = (
        from_vectors(request, Path(options.vectors))
        if options.vectors is not None
        else questions(request, options.quick)
    )
    verdict = judge(request, about, ask(request, about, options.time_limit))
    if options.json:
        print(json.dumps(verdict.as_dict()))
    elif verdict.status == "could not run":
        raise ValueError(f"{options.target or options.exec}: {verdict.sentence}")
    else:
        show(verdict)
    return verdict.exit_code


def show(verdict: Verdict) -> None:
    table = Table("result", "shape", "largest error", "its size", "share of bound", "in case", "")
    for row in verdict.rows:
        shape, share = " × ".join(map(str, row.shape)), f"{row.share:.2g}"
        judged = "right" if row.right else "[bold]WRONG[/bold]"
        table.add_row(escape(harmless(row.name)), shape, f"{row.error:.1e}", f"{row.size:.1e}", share, row.case, judged)
    console = Console(width=None if Console().is_terminal else 120, highlight=False)
    if verdict.rows:
        console.print(table)
    console.print(escape(harmless(verdict.sentence)), style="bold" if verdict.exit_code else "")


def check_model(options: Any) -> int:
    if not Path(options.config).is_file():
        raise ValueError(f"{options.config}: no such file; give a config such as configs/lstm.yaml")
    if options.data.path == "":
        raise ValueError("--data.path is empty: give a text file, or leave it out")
    from twins import from_config, pairs  # torch and Lightning, which most commands do without

    model, data = from_config(options.config, options.data.path)
    found = pairs(model, next(iter(data.train_dataloader())))
    table = Table("result", "shape", "largest difference", "allowed", "same bits", "", title=escape(str(data)))
    for pair in found:
        shape = " × ".join(map(str, pair.by_hand.shape)) or "1"
        judged = "right" if pair.apart <= pair.allowed else "[bold]WRONG[/bold]"
        table.add_row(pair.name, shape, f"{pair.apart:.1e}", f"{pair.allowed:.1e}", f"{pair.same_bits:.0%}", judged)
    Console(width=120).print(table)
    wrong = ", ".join(pair.name for pair in found if not pair.apart <= pair.allowed)
    print(f"Wrong: {wrong}." if wrong else f"Right: all {len(found)} results agree, to rounding.", end=" ")
    print("Differences are relative to the largest entry.")
    return 1 if wrong else 0


def kill_table() -> tuple[Table, int]:
    """Bug × exact case: how many results differ from the truth. Also the number of bugs that no case catches."""
    table = Table("bug", "cell", *COLUMNS, title="Results that differ from the truth by at least one bit")
    missed = 0
    for mutant in MUTANTS:
        for cell in cells_of(mutant):
            counts = [len(wrong_results(case, mutant)) for case in exact_cases(cell)]
            missed += not any(counts)
            table.add_row(mutant.name, cell, *(str(count) if count else "-" for count in counts))
    return table, missed


def comparison_table() -> Table:
    """Bug × the settings of others: noticed, or let pass."""
    table = Table(
        "bug", "what is wrong", *(setting.name for setting in SETTINGS), title="Noticed by the tests of others?"
    )
    passed = [0] * len(SETTINGS)
    for mutant in MUTANTS:
        noticed = [all(is_noticed(setting, mutant, cell) for cell in cells_of(mutant)) for setting in SETTINGS]
        passed = [count + (not seen) for count, seen in zip(passed, noticed, strict=True)]
        table.add_row(mutant.name, escape(mutant.sentence), *("yes" if seen else "PASSES" for seen in noticed))
    table.add_section()
    table.add_row("let pass", f"of {len(MUTANTS)} bugs", *map(str, passed))
    return table


def print_matrix() -> int:
    """Both tables; the exit code says whether some bug was missed."""
    console = Console(width=150)
    table, missed = kill_table()
    console.print(table)
    console.print(comparison_table())
    console.print(f"{len(MUTANTS)} bugs; the exact cases miss {missed or 'none'}.")
    return 1 if missed else 0


def print_precision() -> None:
    """A line for each cell and format, a column for each implementation: the entry in the middle, and the worst."""
    import torch

    from twins import by_autograd, by_torch_layers  # torch and Lightning, which most commands do without

    rooms: dict[str, Callable[[Case, str], Arrays]] = {
        "autograd": lambda case, dtype: by_autograd(case, getattr(torch, dtype), "autograd"),
        "fused": lambda case, dtype: by_autograd(case, getattr(torch, dtype), "fused"),
        "torch.nn": lambda case, dtype: by_torch_layers(case, getattr(torch, dtype)),
    }
    found: dict[tuple[str, str], dict[str, str]] = {}
    for each in track(distances(rooms), description="measuring", total=None, transient=True):
        found.setdefault((each.cell, each.dtype), {})[each.who] = f"{each.median:.2g} / {each.worst:.2g}"
    columns = ("NumPy by hand", *rooms)
    table = Table("cell", "format", *columns, title="ULPs of the largest term: median / worst of all gradients")
    for (cell, dtype), row in found.items():
        table.add_row(cell, dtype, *(row.get(column, "-") for column in columns))
    Console(width=100).print(table)


def main() -> None:
    prepare_streams(output_is_optional=False)
    with mistakes_in_one_line("check.py"):
        options = parse_arguments()
        if options.subcommand == "vectors":
            if not options.vectors.folder:
                raise ValueError("give the folder that the vectors are to be written to")
            files = write(Path(options.vectors.folder))
            print(f"{len(files)} files in {options.vectors.folder}; {MANIFEST} has their checksums")
        elif options.subcommand == "candidate":
            raise SystemExit(check_candidate(options.candidate))
        elif options.subcommand == "model":
            raise SystemExit(check_model(options.model))
    if options.subcommand == "precision":
        print_precision()
    if options.subcommand == "mutants":
        raise SystemExit(print_matrix())


if __name__ == "__main__":
    main()
