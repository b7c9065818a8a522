"""Children that die with their parent, however it dies."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1


def start_child(command: list[str], *inherited: int) -> subprocess.Popen[bytes]:
    """Start a process that gets SIGKILL when the thread that started it ends (on Linux), in a session of its own.

    `inherited` are the descriptors that stay open in it. A session of its own keeps a terminal's Ctrl-C from reaching
    the children before the drain does.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the signal was asked for
            os._exit(1)

    return subprocess.Popen(command, preexec_fn=prepare, start_new_session=True, pass_fds=inherited)  # noqa: S603, PLW1509


def die_with_parent(number: signal.Signals) -> None:
    """Ask the system to send this process a signal when its parent ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
