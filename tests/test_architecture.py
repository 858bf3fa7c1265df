"""Who may import whom. Two implementations that share code would prove nothing by agreeing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "bptt": {"torch", "pytorch_lightning", "models", "datamodules", "tests"},
    "models": {"bptt", "datamodules", "tests"},
    "datamodules": {"bptt", "models", "tests"},
}


STRANGERS = ROOT / "bptt" / "verify" / "candidates.py"  # may call torch inside a function, as a candidate may be one


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = [node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)]
    for node in ast.walk(tree):
        if path == STRANGERS and node in inner and isinstance(node, ast.Import) and node.names[0].name == "torch":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_room_imports_what_it_must_not_know(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        packages = {name.split(".")[0] for name in imported(path)}
        assert not packages & FORBIDDEN[room], f"{path} imports {packages & FORBIDDEN[room]}"


def test_bptt_needs_numpy_and_the_standard_library_alone() -> None:
    import sys

    for path in (ROOT / "bptt").rglob("*.py"):
        packages = {name.split(".")[0] for name in imported(path)}
        assert packages <= {"numpy", "bptt"} | sys.stdlib_module_names, path


def test_there_are_no_circles() -> None:
    files = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for r in FORBIDDEN
        for path in (ROOT / r).rglob("*.py")
    }
    needs = {name: imported(path) & set(files.values()) for path, name in files.items()}
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f"these modules import each other in a circle: {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in free}


def test_the_training_script_fits_on_a_screen_or_two() -> None:
    assert len((ROOT / "train.py").read_text(encoding="utf-8").splitlines()) <= 60


def test_the_checker_loads_neither_torch_nor_lightning_before_a_candidate_needs_them() -> None:
    import subprocess
    import sys

    code = "import sys, check, bptt.verify.candidates; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "bptt" in done.stdout.split() and not {"torch", "pytorch_lightning", "lightning"} & set(done.stdout.split())


POSIX = {"resource", "fcntl", "termios", "tty", "pwd", "grp", "pty", "posix", "syslog"}


def test_no_module_of_posix_alone_is_imported_where_it_may_be_missing() -> None:
    """Windows has none of them: an import at the top of a module would end every script there."""
    for path in [*ROOT.glob("*.py"), *(file for package in FORBIDDEN for file in (ROOT / package).rglob("*.py"))]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                assert not POSIX & {name.split(".")[0] for name in names}, f"{path}: put it into try"
