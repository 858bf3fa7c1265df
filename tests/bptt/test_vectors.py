"""The committed test vectors: whole, what the code writes today, and usable without Python."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bptt.verify.vector_files import MANIFEST, write

VECTORS = Path(__file__).parents[2] / "bptt" / "verify" / "vectors"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    write(folder)
    return folder


def test_the_committed_files_are_whole_and_small() -> None:
    listed = [line.split() for line in (VECTORS / MANIFEST).read_text(encoding="utf-8").splitlines()]
    assert {name for _, name in listed} == {path.name for path in VECTORS.iterdir()} - {MANIFEST, "README.md", "lstm.c"}
    for digest, name in listed:
        assert hashlib.sha256((VECTORS / name).read_bytes()).hexdigest() == digest, name
    assert sum(path.stat().st_size for path in VECTORS.iterdir()) <= 2_000_000


def test_the_exact_ones_are_what_the_code_writes_today(written: Path) -> None:
    exact = [path for path in written.glob("*bits*") if path.suffix != ".npz"]
    assert len(exact) == 24
    for path in exact:
        assert path.read_bytes() == (VECTORS / path.name).read_bytes(), path.name


def test_the_three_forms_of_a_case_say_the_same(written: Path) -> None:
    for path in written.glob("*.json"):
        as_json = json.loads(path.read_text(encoding="utf-8"))
        as_text = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[5:]
        text = {head.split()[0]: values.split() for head, values in zip(as_text[::2], as_text[1::2], strict=True)}
        with np.load(path.with_suffix(".npz")) as as_npz:
            assert set(as_npz) == set(text)
            for key in as_npz:
                group, name = key.split(":")
                entry = as_json[group][name]
                assert entry["shape"] == list(as_npz[key].shape) and entry["data"] == text[key]
                assert [float.fromhex(number) for number in text[key]] == as_npz[key].ravel().tolist()


def test_every_step_of_every_gate_is_there(written: Path) -> None:
    case = json.loads((written / "lstm-tanh-T5-B2-I3-H4-L1-seed0.json").read_text(encoding="utf-8"))
    wanted = {"i", "f", "g", "o", "a_i", "a_f", "a_g", "a_o", "c", "tanh_c"}
    assert {f"layer.0.{name}" for name in wanted} <= case["intermediate"].keys()
    assert {"d.layer.0.h", "d.layer.0.c", "d.layer.0.x_part", "d.layer.0.h_part"} <= case["intermediate"].keys()
    assert case["bound"].keys() == case["result"].keys() and case["intermediate"]["layer.0.i"]["shape"] == [5, 2, 4]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_example_in_c_agrees_to_the_bit_and_notices_when_it_does_not(tmp_path: Path) -> None:
    program = tmp_path / "lstm"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", program, VECTORS / "lstm.c", "-lm"], check=True)
    for vector in VECTORS.glob("lstm-hard*-L1-*.txt"):
        done = subprocess.run([program, vector], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.count("the same bits") == 4
        lines = vector.read_text(encoding="utf-8").splitlines()
        place = next(k for k, line in enumerate(lines) if line.startswith("cotangent:d.output"))
        lines[place + 1] = lines[place + 1].replace("0x1.0", "0x1.8")
        (tmp_path / "changed.txt").write_text("\n".join(lines), encoding="utf-8")
        done = subprocess.run([program, tmp_path / "changed.txt"], capture_output=True, text=True)
        assert done.returncode == 1 and "WRONG" in done.stdout
