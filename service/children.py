"""Children that die with their parent, however it dies."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def start_child(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a process that gets SIGKILL when this one ends (on Linux), in a session of its own.

    A session of its own keeps a terminal's Ctrl-C from reaching the children before the drain does.
    """
    kill_with_parent = _death_signal(os.getpid()) if sys.platform == "linux" else None
    return subprocess.Popen(command, preexec_fn=kill_with_parent, start_new_session=True)  # noqa: S603, PLW1509


def _death_signal(parent: int) -> Callable[[], None]:
    library = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was asked for
            os._exit(1)

    return ask
