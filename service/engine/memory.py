"""Memory that is no longer needed goes back to the system at once, so that what is resident is what is used."""

from __future__ import annotations

import ctypes
import gc

_M_ARENA_MAX = -8
"""glibc's number for `mallopt`."""


def use_one_heap() -> None:
    """Let all threads share one heap; to be called before there are any.

    glibc gives each thread a heap of its own and never returns the free end of any but the first, so that what stays
    resident after a reload would depend on which thread allocated what. The engine has few threads, and the memory
    of its batches is onnxruntime's own.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except AttributeError:  # not glibc
        return


def give_memory_back() -> None:
    """Return freed memory to the system: Python's garbage, then what the C library holds."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        return
