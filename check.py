"""Prove gradients, and prove the proof.

python check.py mutants      which published bugs the exact cases catch, and which pass the tests of others
"""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bptt.verify.matrix import COLUMNS, SETTINGS, cells_of, exact_cases, is_noticed, wrong_results
from bptt.verify.mutants import MUTANTS
from bptt.verify.vector_files import MANIFEST, write
from command_line import mistakes_in_one_line


def parse_arguments(arguments: list[str] | None = None) -> Any:
    parser = ArgumentParser(description=__doc__, exit_on_error=False)
    commands = parser.add_subcommands()
    matrix = ArgumentParser(description="Two tables: bug × exact case, and bug × what others test with.")
    commands.add_subcommand("mutants", matrix)
    files = ArgumentParser(description="Cases with every result and intermediate, as JSON, text and .npz.")
    files.add_argument("folder", type=str, help="where to write them")
    commands.add_subcommand("vectors", files)
    return parser.parse_args(arguments)


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


def main() -> None:
    with mistakes_in_one_line("check.py"):
        options = parse_arguments()
        if options.subcommand == "vectors":
            files = write(Path(options.vectors.folder))
            print(f"{len(files)} files in {options.vectors.folder}; {MANIFEST} has their checksums")
            return
    raise SystemExit(print_matrix())


def print_matrix() -> int:
    """Both tables; the exit code says whether some bug was missed."""
    console = Console(width=150)
    table, missed = kill_table()
    console.print(table)
    console.print(comparison_table())
    console.print(f"{len(MUTANTS)} bugs; the exact cases miss {missed or 'none'}.")
    return 1 if missed else 0


if __name__ == "__main__":
    main()
