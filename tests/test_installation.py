"""The pins of constraints.txt resolve from the public package index for every supported platform and Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-msvc")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def resolve(requirements: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Asks the public index, whatever index or folder of wheels this machine is configured with."""
    command = [str(UV), "pip", "compile", "--quiet", "--no-config", "--no-python-downloads", *options, requirements]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    environment = {**kept, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest macOS that torch has wheels for
    return subprocess.run(command, cwd=ROOT, env=environment, input="six\n", capture_output=True, text=True)


@pytest.fixture(scope="module")
def index() -> None:
    if not UV.exists():
        pytest.skip("uv is not installed beside this Python")
    if resolve("-").returncode:
        pytest.skip("the public package index cannot be reached")


@pytest.mark.slow
@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_pins_resolve(platform: str, python: str) -> None:
    where = ["--python-version", python, "--python-platform", platform]
    done = resolve("pyproject.toml", "--extra", "dev", "--constraint", "constraints.txt", *where)
    assert done.returncode == 0, done.stderr
    assert "torch==2.13.0" in done.stdout


def test_constraints_txt_says_how_it_was_made() -> None:
    command = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1]
    assert command.startswith("#    uv pip compile ") and "--universal" in command and "pyproject.toml" in command
