"""How the C library hands memory out while a network trains on the CPU."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_NEVER_BYTES = 2**31 - 1
_MMAP_BYTES = 2**25
"""The most that glibc takes for this threshold."""


def keep_freed_memory() -> None:
    """Let glibc keep freed activations for the next batch; a no-op with other C libraries.

    By default it returns blocks of a few megabytes to the kernel at once, which then clears the same pages for every
    layer of every batch.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _NEVER_BYTES)
        library.mallopt(_TOP_PAD, _MMAP_BYTES)
