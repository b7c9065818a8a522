"""Who has left before the answer came: asked for many clients at once.

Every system call lets another thread take the interpreter's lock, and then it has to be waited for.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable


def departed(clients: Iterable[socket.socket]) -> set[socket.socket]:
    """Return those whose other end closed the connection. Never blocks and reads nothing away."""
    poller = select.poll()  # select() knows no descriptor above 1023
    asked: dict[int, socket.socket] = {}
    gone = set()
    for client in clients:
        number = client.fileno()
        if number < 0:
            gone.add(client)
        else:
            asked[number] = client
            poller.register(number, select.POLLIN)
    ready = poller.poll(0) if asked else []
    return gone.union(asked[number] for number, _ in ready if _ended(asked[number]))


def _ended(client: socket.socket) -> bool:
    """Tell the end of a connection from a next request that is on its way."""
    try:
        # Below TLS too: the end of the connection is no secret, and an SSLSocket does not peek.
        return socket.socket.recv(client, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except OSError:
        return True
