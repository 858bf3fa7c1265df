"""Folders of test vectors that are damaged, incomplete or no test vectors are refused in one line."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bptt.verify.trials import Request, from_vectors
from bptt.verify.vector_files import MANIFEST, read

VECTORS = Path(__file__).parents[2] / "bptt" / "verify" / "vectors"
CASE = "lstm-tanh-T5-B2-I3-H4-L1-seed0"


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """Two of the committed cases, in a folder of their own."""
    lines = (VECTORS / MANIFEST).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.split()[1].startswith((CASE, "gru-tanh"))]
    assert len(kept) == 6
    for line in kept:
        shutil.copy(VECTORS / line.split()[1], tmp_path)
    (tmp_path / MANIFEST).write_text("\n".join(kept) + "\n", encoding="utf-8")
    return tmp_path


def relisted(folder: Path) -> None:
    """Writes a manifest of what is there now."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def changed_json(folder: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    path = folder / f"{CASE}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    relisted(folder)


def changed_npz(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = folder / f"{CASE}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    relisted(folder)


def manifest_without(folder: Path, ending: str) -> None:
    lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / MANIFEST).write_text(
        "".join(line for line in lines if not line.endswith(f"{ending}\n")), encoding="utf-8"
    )


def test_a_whole_folder_is_read(vectors: Path) -> None:
    assert [case.name for case, _ in read(vectors)] == ["gru-tanh-T5-B2-I3-H4-L1-seed0", CASE]
    assert len(from_vectors(Request("", "lstm"), vectors)) == 1
    (vectors / "README.md").write_text("notes", encoding="utf-8")  # no part of a case: it need not be listed
    assert len(read(vectors)) == 2


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty manifest": (lambda f: (f / MANIFEST).write_text(""), "SHA256SUMS is empty"),
    "blank manifest": (lambda f: (f / MANIFEST).write_text("\n"), "SHA256SUMS, line 1: '' is not a SHA-256"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "SHA256SUMS: no such file; give a folder that check.py vectors"),
    "manifest without .npz": (lambda f: manifest_without(f, f"{CASE}.npz"), f"{CASE}.npz is not listed in SHA256SUMS"),
    "manifest without .json": (lambda f: manifest_without(f, f"{CASE}.json"), f"{CASE}.json is not listed in SHA256S"),
    "manifest without .txt": (lambda f: manifest_without(f, "seed0.txt"), ".txt is not listed in SHA256SUMS"),
    "manifest of half a line": (
        lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text()[:-40]), "SHA256SUMS"
    ),
    "manifest that is binary": (lambda f: (f / MANIFEST).write_bytes(b"\xff\x00" * 99), "SHA256SUMS, line 1"),
    "manifest of other folders": (
        lambda f: (f / MANIFEST).write_text(f"{'0' * 64}  ../secret.json\n"), "line 1: '000000"
    ),
    "manifest of a device": (lambda f: (f / MANIFEST).write_text(f"{'0' * 64}  /dev/zero\n"), "line 1: '000000"),
    "another case, unlisted": (
        lambda f: shutil.copy(f / f"{CASE}.json", f / "other.json"), "other.json is not listed in SHA256SUMS"
    ),
    "missing file": (lambda f: (f / f"{CASE}.txt").unlink(), f"{CASE}.txt: no such file, but SHA256SUMS lists it"),
    "one bit": (
        lambda f: (f / f"{CASE}.npz").write_bytes((f / f"{CASE}.npz").read_bytes()[:-1] + b"\1"),
        f"{CASE}.npz is not what SHA256SUMS says it is",
    ),
    "a folder for a file": (
        lambda f: ((f / f"{CASE}.txt").unlink(), (f / f"{CASE}.txt").mkdir()), f"{CASE}.txt is not a regular file"
    ),
    "no JSON": (lambda f: ((f / f"{CASE}.json").write_text("{"), relisted(f)), "its .npz hold no case"),
    "JSON without an end": (
        lambda f: ((f / f"{CASE}.json").write_text("[" * 100_000), relisted(f)), "its .npz hold no case"
    ),
    "a list": (lambda f: ((f / f"{CASE}.json").write_text("[1]"), relisted(f)), "hold no case: "),
    "no npz": (lambda f: ((f / f"{CASE}.npz").write_bytes(b"PK"), relisted(f)), "hold no case: "),
    "no sizes": (lambda f: changed_json(f, lambda c: c.pop("sizes")), "hold no case: KeyError: 'sizes'"),
    "unknown cell": (lambda f: changed_json(f, lambda c: c.update(cell="srn")), "hold no case: KeyError: 'srn'"),
    "unknown activation": (lambda f: changed_json(f, lambda c: c.update(activation="x")), "activation is 'x': it"),
    "size of nothing": (lambda f: changed_json(f, lambda c: c["sizes"].update(T=0)), "a size is less than 1"),
    "size of a word": (lambda f: changed_json(f, lambda c: c["sizes"].update(T="five")), "hold no case: "),
    "unknown size": (lambda f: changed_json(f, lambda c: c["sizes"].update(Q=1)), "hold no case: "),
    "another size": (lambda f: changed_json(f, lambda c: c["sizes"].update(T=4)), "input:x is float64 (5, 2, 3), not"),
    "missing array": (lambda f: changed_npz(f, lambda a: a.pop("bound:d.x")), "there is no bound:d.x"),
    "unknown array": (lambda f: changed_npz(f, lambda a: a.update({"input:y": a["input:x"]})), "an unknown input:y"),
    "NaN": (lambda f: changed_npz(f, lambda a: a["result:d.x"].fill(np.nan)), "result:d.x has an entry"),
    "negative bound": (lambda f: changed_npz(f, lambda a: a["bound:d.x"].fill(-1)), "bound:d.x has an entry"),
    "float32": (
        lambda f: changed_npz(f, lambda a: a.update({"input:x": a["input:x"].astype(np.float32)})),
        "input:x is float32 (5, 2, 3), not float64",
    ),
    "pickled": (
        lambda f: changed_npz(f, lambda a: a.update({"input:x": np.array([print], object)})),
        "hold no case: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_refused(kind: str, vectors: Path) -> None:
    damage, message = DAMAGES[kind]
    damage(vectors)
    with pytest.raises((ValueError, OSError)) as raised:
        from_vectors(Request("", "lstm"), vectors)
    assert message in str(raised.value) and "\n" not in str(raised.value), raised.value


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize("name", [MANIFEST, f"{CASE}.npz"])
def test_a_pipe_is_not_waited_for(name: str, vectors: Path) -> None:
    (vectors / name).unlink()
    os.mkfifo(vectors / name)
    with pytest.raises((ValueError, OSError), match=f"{name}"):
        from_vectors(Request("", "lstm"), vectors)
