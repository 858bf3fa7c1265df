"""Reads a checkpoint file as plain data: numbers, strings, lists, dicts and tensors. Nothing in the file is executed.

`torch.save` writes a zip archive: `data.pkl` is a pickle that refers to one member per storage of a tensor. This reader
verifies the checksum of every member, restricts the pickle to the few instructions that `torch.save` needs, and builds
the tensors itself, so that no size that the file claims is used before it is compared with the bytes that are there.
Checksums find damage. They do not prove who wrote a file.
"""

import io
import os
import pickle
import pickletools
import re
import stat
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_PICKLE_BYTES = 1 << 26
MAX_INSTRUCTIONS = 5_000_000  # each creates at most one object of some 70 bytes
MAX_DEPTH = 30
MAX_SHARING = 2  # how often a value may occur on average: tied weights are two tensors that share a storage
MEMBER = re.compile(r"[^/\\]+/(data\.pkl|data/[0-9]+|byteorder|version|\.format_version|\.storage_alignment"
                    r"|\.data/serialization_id)")  # fmt: skip
INSTRUCTIONS = frozenset(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_DICT EMPTY_LIST "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET "
    "GLOBAL BINPERSID REDUCE BUILD".split()
)
DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}


class Damaged(ValueError):
    """The file began as an archive of `torch.save`, but its content is not what was written."""


def read_archive(path: str | os.PathLike[str]) -> Any:
    """The content of a file that `torch.save` wrote, on the CPU, as a tree: no two places share a list, dict or tensor.

    Tuples stay tuples; an OrderedDict becomes a dict. Raises OSError where there is no file that can be read,
    `Damaged` for an archive whose checksums or sizes are wrong, and ValueError for any other file.
    """
    with open_regular(path) as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("is not a checkpoint of train.py")
        try:
            members = verified_members(file)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, UnicodeError) as error:
            raise Damaged(f"is damaged: {error}") from None
    if members.get("byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
        raise ValueError(f"was written on a machine that is not {sys.byteorder}-endian")
    return unpickled(members)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file. Raises ValueError for a folder, and for a FIFO or a device, which may have no end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    if os.path.isdir(path):
        raise ValueError("is a folder: give the checkpoint in it")
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("is not a regular file")
    return os.fdopen(descriptor, "rb")


def verified_members(file: BinaryIO) -> dict[str, bytes]:
    """The members by their name within the archive's folder, read once, with the right checksum.

    Members are stored, not compressed, and all of them together are not larger than the file.
    """
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len({name.split("/")[0] for name in names}) != 1 or not all(map(MEMBER.fullmatch, names)):
            raise zipfile.BadZipFile("it has members that torch.save does not write")
        if len(set(names)) != len(names):
            raise zipfile.BadZipFile("a member occurs twice")
        if any(info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size for info in infos):
            raise zipfile.BadZipFile("a member is compressed")
        if sum(info.file_size for info in infos) > size:
            raise zipfile.BadZipFile("its members are larger than the file")
        pickles = [info.file_size for info in infos if info.filename.endswith("/data.pkl")]
        if not pickles or pickles[0] > MAX_PICKLE_BYTES:
            raise zipfile.BadZipFile("it has no data.pkl of a checkpoint's size")
        members = {info.filename.split("/", 1)[1]: archive.read(info) for info in infos}
    if any(len(members[info.filename.split("/", 1)[1]]) != info.file_size for info in infos):
        raise zipfile.BadZipFile("a member is shorter than its entry says")
    return members


def unpickled(members: dict[str, bytes]) -> Any:
    data = members["data.pkl"]
    try:
        count = checked_instructions(data)
        tree = Reader(io.BytesIO(data), members).load()
        return Copy(count, sum(map(len, members.values()))).plain(tree)
    except Refused:
        raise ValueError("is not a checkpoint of train.py: it holds more than numbers and text") from None
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError,
            OverflowError, MemoryError, RuntimeError, RecursionError) as error:  # fmt: skip
        raise ValueError(f"is not a checkpoint of train.py: {error}") from None


class Refused(Exception):
    """The pickle has an instruction, a class or an object that no checkpoint of this project has."""


def checked_instructions(data: bytes) -> int:
    """How many instructions a pickle has. Raises `Refused` unless they are those of `torch.save`, with its classes."""
    stored = end = count = 0
    for count, (instruction, argument, position) in enumerate(pickletools.genops(data)):
        name = instruction.name
        end = (position or 0) + 1
        if name not in INSTRUCTIONS or count > MAX_INSTRUCTIONS:
            raise Refused
        if name == "GLOBAL" and argument not in GLOBALS:
            raise Refused
        if name in ("BINPUT", "LONG_BINPUT"):  # the memo is an array as large as its largest index
            if argument is None or argument > stored:
                raise Refused
            stored += 1
    if end != len(data):
        raise Refused
    return count + 1


class Inert:
    """An object on which a pickle cannot set attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused


class Storage(Inert):
    """The bytes of one or more tensors, as one tensor of all its elements."""

    __slots__ = ("elements",)

    def __init__(self, elements: Tensor) -> None:
        self.elements = elements


class Rebuilt(Inert):
    """A tensor, wrapped so that no instruction of a pickle can act on it."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Constructor(Inert):
    """What a pickle may call."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class Mapping(dict[Any, Any]):
    """Stands for OrderedDict. Its attributes, as the `_metadata` of a state_dict, are left out."""

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


def rebuilt(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Rebuilt:
    """A tensor within its storage. Raises ValueError where it would reach beyond it."""
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or len(size) > 8 or not all(type(n) is int and 0 <= n < 1 << 60 for n in numbers):
        raise ValueError("a tensor has no shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else -1
    if last >= len(storage.elements):
        raise ValueError("a tensor is larger than its data")
    return Rebuilt(storage.elements.as_strided(size, stride, offset))


GLOBALS: dict[str, Any] = {
    "collections OrderedDict": Constructor(Mapping),
    "torch._utils _rebuild_tensor_v2": Constructor(rebuilt),
    **DTYPES,
}


class Reader(pickle.Unpickler):
    """An unpickler that knows `GLOBALS` alone, and gets tensors' bytes from the archive's members."""

    def __init__(self, file: io.BytesIO, members: dict[str, bytes]) -> None:
        super().__init__(file)
        self.members = members
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        return GLOBALS[f"{module} {name}"]

    def persistent_load(self, given: Any) -> Storage:
        kind, dtype, key, _, count = given
        if kind != "storage" or dtype not in DTYPES.values():
            raise Refused
        data = self.members[f"data/{key}"]
        if type(count) is not int or len(data) != count * dtype.itemsize:
            raise ValueError("a tensor's data has another size than its elements")
        found = self.storages.get(key)
        if found is None:
            elements = torch.frombuffer(bytearray(data), dtype=dtype).clone() if data else torch.empty(0, dtype=dtype)
            found = self.storages[key] = Storage(elements)
        if found.elements.dtype != dtype:
            raise ValueError("a tensor's data is of two dtypes")
        return found


class Copy:
    """Copies what was unpickled to a tree of plain data. Raises ValueError or `Refused` for what is no plain data, too
    deep, or much larger than the instructions and bytes it was made of: nested references make a small file large."""

    def __init__(self, instructions: int, size: int) -> None:
        self.values = MAX_SHARING * instructions
        self.bytes = MAX_SHARING * size

    def plain(self, value: Any, depth: int = 0) -> Any:
        self.values -= 1
        if depth > MAX_DEPTH or self.values < 0:
            raise ValueError("it is nested too deeply")
        if value is None or type(value) in (bool, float, str) or type(value) is int and abs(value) < 1 << 64:
            return value
        if type(value) is Rebuilt:
            self.bytes -= value.tensor.numel() * value.tensor.itemsize
            if self.bytes < 0:
                raise ValueError("its tensors are larger than the file")
            return value.tensor
        if type(value) in (list, tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if type(value) in (dict, Mapping):
            if not all(type(key) in (str, int) for key in value):
                raise ValueError("a dict has keys that are no names")
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        raise Refused
