"""Encoded texts in the user's cache folder, mapped into memory, and compared with checksums as they are read.

The numbers of a text are in a file `.ids`, named after a hash of what was read and of the settings; all else is in the
`.json` beside it, which begins with its own CRC-32. A `.digest`, named after a hash of the text's files, their sizes
and times, says what was read, so that an unchanged text is not read again.
"""

import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from complete_files import complete_file
from datamodules.tokenizers import Ids, Tokenizer, load_tokenizer
from user_cache import cache_folder, is_private_file, private_folder

BLOCK = 1 << 20  # bytes of a file that have a checksum


class Encoded(NamedTuple):
    tokenizer: Tokenizer
    training: Ids
    held_out: Ids
    excerpt: str  # the beginning of the held-out part, as it was written
    digest: str  # of the files' content


def encoded(about: dict[str, Any], tokenizer: Tokenizer, numbers: Any) -> Encoded:
    part = numbers.part if isinstance(numbers, MappedIds) else lambda begin, end: numbers[begin:end]
    held_out = part(about["held_out"], len(numbers))
    return Encoded(tokenizer, part(0, about["training"]), held_out, about["excerpt"], about["digest"])


class MappedIds(np.memmap):
    """Numbers in a file. What is read by index or by slice is verified when it is read for the first time.

    Pages that were read by index leave this process's memory from time to time, and stay in the system's cache: else a
    pass over a long text would end with all of it in memory.

    Attributes: the `blocks` of the file, if they have checksums, and where in it these numbers `begin`.
    """

    reads = 0
    blocks: "Blocks | None" = None  # arrays that are derived in another way than by `part` have none
    begin = 0

    def part(self, begin: int, end: int) -> "MappedIds":
        """Some of the numbers. Nothing is read here."""
        part: Any = super().__getitem__(slice(begin, end))
        part.blocks, part.begin = self.blocks, self.begin + begin
        return cast(MappedIds, part)

    def __getitem__(self, index: Any) -> Any:
        if self.blocks and self.blocks.unverified:
            self.blocks.verify(self.blocks_of(index))
        results = super().__getitem__(index)
        if isinstance(index, slice):
            return results
        self.reads += 1
        if self.reads % 100 == 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return np.asarray(results)

    def blocks_of(self, index: Any) -> npt.NDArray[Any]:
        """The numbers of the blocks that an index or a slice reads."""
        assert self.blocks
        size = self.blocks.size
        if not isinstance(index, slice):
            return (np.atleast_1d(index) % len(self) + self.begin) // size
        places = range(len(self))[index]
        if not places:
            return np.arange(0)
        first, last = sorted((places[0], places[-1]))
        return np.arange((self.begin + first) // size, (self.begin + last) // size + 1)


class Blocks:
    """The blocks of a file of numbers, each of which is compared with its CRC-32 when it is first needed.

    Raises ValueError if there are more or fewer checksums than blocks.
    """

    def __init__(self, numbers: npt.NDArray[Any], path: Path, checksums: list[int], vocab_size: int) -> None:
        self.numbers, self.path, self.checksums, self.vocab_size = numbers, path, checksums, vocab_size
        self.size = BLOCK // numbers.itemsize  # numbers in a block
        if len(checksums) != -(-len(numbers) // self.size):
            raise ValueError(f"{path}: has other blocks than checksums")
        self.verified = np.zeros(len(checksums), bool)
        self.unverified = len(checksums)

    def verify(self, blocks: npt.NDArray[Any]) -> None:
        """Raises OSError, and deletes the file, if one of these blocks is damaged."""
        missing = blocks[~self.verified[blocks]]
        for block in np.unique(missing) if missing.size else []:
            self.verify_block(int(block))

    def verify_block(self, block: int) -> None:
        values = self.numbers[block * self.size : (block + 1) * self.size]
        if zlib.crc32(values.view(np.uint8).data) != self.checksums[block] or values.max() >= self.vocab_size:
            with suppress(OSError):
                self.path.unlink()
            raise OSError(
                f"{self.path}: this encoded text in the cache is damaged; it was deleted, and the text is encoded "
                "again at the next start"
            )
        self.verified[block] = True
        self.unverified -= 1


class Checksums:
    """A file to write to that notes the CRC-32 of every block."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.values: list[int] = []
        self.written = 0  # bytes

    def write(self, data: Any) -> int:
        content, begin = memoryview(data).cast("B"), 0
        while begin < len(content):
            if self.written % BLOCK == 0:
                self.values.append(0)
            end = min(len(content), begin + BLOCK - self.written % BLOCK)
            self.values[-1] = zlib.crc32(content[begin:end], self.values[-1])
            self.written += end - begin
            begin = end
        return self.file.write(content)


class Cache:
    """Encoded texts in a folder of the user's. A file has another name until it is complete, and one process writes at
    a time. Files that another user could have written are as good as missing.

    Methods that write raise OSError, saying what to do, where the folder cannot be written to.
    """

    def __init__(self, stamp: str, settings: list[Any]) -> None:
        self.folder, self.settings = cache_folder() / "encoded", settings
        self.stamp = self.folder / f"{stamp}.digest" if stamp else None

    def unread(self) -> Encoded | None:
        """The text whose files have this stamp."""
        try:
            if self.stamp and is_private_file(self.stamp):
                return self.find(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
        return None

    def find(self, digest: str) -> Encoded | None:
        """The text of this digest, if it is there and complete."""
        path = self.path(digest)
        if not (is_private_file(path) and is_private_file(path.with_suffix(".json"))):
            return None
        try:
            about = self.read_about(path.with_suffix(".json"))
            tokenizer = load_tokenizer(about["tokenizer"])
            numbers = MappedIds(path, dtype_of(tokenizer), "r")
            if len(numbers) != about["length"]:
                return None
            numbers.blocks = Blocks(np.asarray(numbers), path, about["checksums"], tokenizer.vocab_size)
            return encoded(about, tokenizer, numbers)
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def read_about(self, path: Path) -> Any:
        """Raises ValueError if the file does not begin with the CRC-32 of the rest."""
        checksum, _, content = path.read_bytes().partition(b"\n")
        if checksum != b"%08x" % zlib.crc32(content):
            raise ValueError(f"{path}: is damaged")
        return json.loads(content)

    def path(self, digest: str) -> Path:
        """Of the numbers; all else is in the .json file beside them."""
        return self.folder / f"{hash_of([digest, *self.settings])}.ids"

    def keep(self, digest: str, write: Callable[[Any], dict[str, Any]]) -> Encoded:
        """The text of this digest; where it is not there, what `write` writes."""
        path = self.path(digest)
        with self.turn():
            if self.find(digest) is None:
                with complete_file(path, 0o600) as file:
                    about = write(checksums := Checksums(file))
                with complete_file(path.with_suffix(".json"), 0o600) as file:
                    content = json.dumps(about | {"checksums": checksums.values}).encode()
                    file.write(b"%08x\n" % zlib.crc32(content) + content)
            if self.stamp:
                with complete_file(self.stamp, 0o600) as file:
                    file.write(digest.encode())
            if found := self.find(digest):
                return found
        raise OSError(f"{path} was deleted just now: start again")

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One process after the other; what one has left half written when it was killed goes."""
        try:
            private_folder(self.folder.name)
            with FileLock(self.folder / "lock"):
                for left in self.folder.glob("*.part"):
                    left.unlink()
                yield
        except OSError as error:
            if error.errno is None:  # one of ours, which says what to do
                raise
            raise OSError(
                f"{self.folder}: the encoded text cannot be kept here ({error.strerror}): make room, or name another "
                "folder in the environment variable UNROLLED_CACHE"
            ) from None


def dtype_of(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.min_scalar_type(tokenizer.vocab_size - 1)


def hash_of(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
