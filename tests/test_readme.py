"""The README tells the truth: its code is the code, its Python session runs."""

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lines_beside_the_equations_are_those_of_the_files() -> None:
    rows = [row.split(" | ") for row in README.splitlines() if re.match(r"\| \w'? = ", row)]
    assert len(rows) == 6
    for _, forward, backward, torch in rows:
        for cell, file in ((forward, "bptt/cells.py"), (backward, "bptt/cells.py"), (torch, "models/cells.py")):
            for line in re.findall(r"`(.+?)`", cell):
                assert line in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {line}"


def test_the_python_session_gives_what_it_says() -> None:
    assert doctest.testfile(str(ROOT / "README.md"), module_relative=False).failed == 0


def test_every_listed_file_exists_and_every_file_is_listed() -> None:
    listing = README.split("## Files")[1].split("```")[1]
    for path in [*ROOT.glob("*.py"), *(p for r in ("bptt", "models", "datamodules") for p in (ROOT / r).rglob("*.py"))]:
        assert path.name in listing or path.name == "__init__.py", f"{path} is not listed"
    for name in re.findall(r"\b\w+\.py\b", listing):
        assert list(ROOT.rglob(name)), f"{name} is listed, but does not exist"


def test_every_config_is_named() -> None:
    for config in (ROOT / "configs").glob("*.yaml"):
        assert config.name in README
