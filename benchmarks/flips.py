"""Single bits of a checkpoint that are flipped: is it refused, loaded unchanged, or loaded with other values?

Each flip is of another bit of a small last.ckpt, drawn from a seed. A bit that bears on nothing, such as one of a date
or of padding, may load; a value that differs in a single bit may not.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.kills import equal
from models.checkpoint_files import read_checkpoint

SMALL = Path(__file__).parent.parent / "tests" / "checkpoints" / "format-1.ckpt"
REFUSED, UNCHANGED, CHANGED = "refused", "loaded unchanged", "loaded with other values"


def outcomes(checkpoint: Path, count: int, folder: Path, seed: int = 0) -> Iterator[str]:
    """What comes of each of `count` copies of a checkpoint, with one bit flipped."""
    whole, content = checkpoint.read_bytes(), read_checkpoint(checkpoint)
    path = folder / "flipped.ckpt"
    bits = 8 * len(whole)
    for bit in random.Random(seed).sample(range(bits), min(count, bits)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except ValueError:
            yield REFUSED
        else:
            yield UNCHANGED if equal(found, content) else CHANGED
