"""Which images a model learned from, small enough to travel with its bundle."""

from __future__ import annotations

from collections.abc import Iterable

from training.data import Split
from training.errors import TrainingError

DIGESTS_FILE = "training_digests.bin"
_BYTES = 8


def pack_digests(splits: Iterable[Split]) -> bytes:
    """Return the sorted first 8 bytes of the SHA-256 of every image in some splits.

    Eight bytes are enough: among 100,000 held-out and 10 million training images a chance match has odds of 1 to 18
    million.
    """
    found = {bytes.fromhex(split.digest(i))[:_BYTES] for split in splits for i in range(len(split))}
    return b"".join(sorted(found))


def unpack_digests(raw: bytes) -> frozenset[bytes]:
    """Return the packed digests. Raises `TrainingError` for a file of another length."""
    if len(raw) % _BYTES:
        raise TrainingError(f"{DIGESTS_FILE} has {len(raw)} bytes, not a multiple of {_BYTES}")
    return frozenset(raw[i : i + _BYTES] for i in range(0, len(raw), _BYTES))


def leaked(split: Split, packed: bytes) -> list[int]:
    """List the images of a split that a model learned from."""
    known = unpack_digests(packed)
    return [i for i in range(len(split)) if bytes.fromhex(split.digest(i))[:_BYTES] in known]
