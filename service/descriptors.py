"""Open files: every connection is one, and many systems allow a process 1,024 until it asks for more."""

from __future__ import annotations

import resource

_OTHERS = 256
"""What a worker has open beside its connections, with room."""


def allow_connections(connections: int) -> int:
    """Raise this process' own limit of open files to what so many connections need; its children inherit it.

    Returns the connections that the limit leaves room for: fewer where the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = connections + _OTHERS
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == unlimited else max(1, min(connections, soft - _OTHERS))
