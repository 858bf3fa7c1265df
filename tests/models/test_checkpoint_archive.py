"""Archives of torch.save: what is written is read, what is damaged or more than data is refused, and nothing runs."""

import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kills import equal
from models.checkpoint_archive import Damaged, read_archive

SHARED = torch.arange(6.0).reshape(2, 3)
CONTENT = {
    "weights": OrderedDict(a=SHARED, tied=SHARED, column=SHARED[:, 1], flipped=SHARED.T),
    "dtypes": [torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.float64, torch.int64, torch.uint8)],
    "empty": torch.zeros(0, 3),
    "plain": [None, True, -3, 2**40, 0.5, "text ü", (1, ("two",)), {7: []}],
}


def saved(path: Path, content: Any = CONTENT) -> Path:
    with path.open("wb") as file:
        torch.save(content, file)
    return path


def rebuilt(path: Path, change: Callable[[dict[str, bytes]], Any], **options: Any) -> Path:
    """The archive again, with the right checksums, after a change of its members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def with_pickle(path: Path, data: bytes) -> Path:
    return rebuilt(saved(path, {}), lambda members: members.update({"archive/data.pkl": data}))


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    found = read_archive(saved(tmp_path / "a.ckpt"))
    assert equal(found, {**CONTENT, "weights": dict(CONTENT["weights"])})
    state = torch.nn.Linear(2, 3).state_dict()  # which has attributes
    assert equal(read_archive(saved(tmp_path / "a.ckpt", state)), dict(state))
    torch.save(CONTENT, tmp_path / "named.ckpt")
    assert equal(read_archive(tmp_path / "named.ckpt"), found)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt")
    whole, content, dice = path.read_bytes(), read_archive(path), random.Random(0)
    refused = 0
    for bit in dice.sample(range(8 * len(whole)), 200):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert equal(read_archive(path), content), f"bit {bit}"
        except ValueError:
            refused += 1
    assert refused > 50


def test_a_file_that_is_cut_is_damaged(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt")
    whole = path.read_bytes()
    for length in range(8, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match="is damaged: "):
            read_archive(path)
    for data in (b"", b"PK", b"text", pickle.dumps(CONTENT["plain"])):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not a checkpoint"):
            read_archive(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        read_archive(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "none")
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no FIFOs")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_archive(tmp_path / "fifo")


def test_members_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    for name in ("archive/other", "other/data/0", "archive/../data.pkl", "/data.pkl", "archive/data/0x"):
        with pytest.raises(Damaged, match="members that torch.save does not write"):
            read_archive(rebuilt(saved(path), lambda members, name=name: members.update({name: b""})))
    with pytest.raises(Damaged, match="compressed"):
        read_archive(rebuilt(saved(path), lambda members: None, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(Damaged, match="no data.pkl"):
        read_archive(rebuilt(saved(path), lambda members: members.pop("archive/data.pkl")))
    saved(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", b"other")
    with pytest.raises(Damaged, match="twice"):
        read_archive(path)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """A small file whose entries all point to the same large part."""
    path = saved(tmp_path / "a.ckpt", [torch.zeros(1000) + k for k in range(20)])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        start = archive.start_dir
    place = data.index(b"PK\x01\x02", start)
    for _ in infos:
        lengths = struct.unpack_from("<3H", data, place + 28)
        struct.pack_into("<2I", data, place + 20, 10**6, 10**6)
        place += 46 + sum(lengths)
    path.write_bytes(data)
    with pytest.raises(Damaged):
        read_archive(path)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


INSTRUCTIONS = {
    "calls a function": pickle.dumps(Evil(), 2),
    "protocol 4": pickle.dumps({}, 4),
    "another class": b"\x80\x02ctorch._utils\n_rebuild_parameter\n.",
    "a class of torch": b"\x80\x02ctorch.nn\nLinear\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"\x80\x02(icollections\nOrderedDict\n.",
    "a global from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "a memo of 2 GB": b"\x80\x02}r\xff\xff\xff\x7f.",
    "attributes of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "a dtype is called": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "two pickles": b"\x80\x02}.\x80\x02}.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "pops what is not there": b"\x80\x02s.",
    "a dtype alone": b"\x80\x02ctorch\nFloatStorage\n.",
    "a class alone": b"\x80\x02ccollections\nOrderedDict\n.",
    "a key that is a list's tuple": b"\x80\x02}K\x01\x85K\x02s.",
    "an endless number": b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_pickle_that_does_more_than_hold_data_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is not a checkpoint of train.py"):
        read_archive(with_pickle(tmp_path / "a.ckpt", INSTRUCTIONS[name]))
    assert not Path("harmed").exists()


def tensor_of(size: int, stride: int, offset: int = 0, elements: int = 3) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        numbers = [b"J" + struct.pack("<i", number) for number in (elements, offset, size, stride)]
        old = b"K\x03tq\x07QK\x00K\x03\x85q\x08K\x01\x85q\t"
        assert old in data
        return data.replace(old, b"%btq\x07Q%b%b\x85q\x08%b\x85q\t" % tuple(numbers))

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (tensor_of(4, 1), "a tensor is larger than its data"),
        (tensor_of(3, 2), "a tensor is larger than its data"),
        (tensor_of(3, 1, 1), "a tensor is larger than its data"),
        (tensor_of(2**30, 0), "its tensors are larger than the file"),
        (tensor_of(-1, 1), "a tensor has no shape"),
        (tensor_of(2, 1, -1), "a tensor has no shape"),
        (tensor_of(2**30, 1, 0, 2**30), "another size than its elements"),
        (lambda data: data.replace(b"FloatStorage", b"DoubleStorage"), "another size than its elements"),
    ],
)
def test_a_tensor_has_the_data_that_it_claims(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    def of_pickle(members: dict[str, bytes]) -> None:
        members["archive/data.pkl"] = change(members["archive/data.pkl"])

    path = saved(tmp_path / "a.ckpt", {"a": torch.arange(3.0)})
    with pytest.raises(ValueError, match=message):
        read_archive(rebuilt(path, of_pickle))


def test_references_do_not_make_a_small_file_large(tmp_path: Path) -> None:
    nested: list[Any] = []
    for _ in range(25):
        nested = [nested] * 10
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    for content in (nested, loop, deep, [SHARED] * 100):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        (tmp_path / "a.ckpt").write_bytes(buffer.getvalue())
        with pytest.raises(ValueError, match="nested too deeply|larger than the file"):
            read_archive(tmp_path / "a.ckpt")
