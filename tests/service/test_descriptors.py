"""Connections and the limit of open files; the limit is this process' own, so another one changes it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.departure import departed
from service.descriptors import allow_connections

ASK = """
import resource, sys
from service.descriptors import allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(allow_connections(int(sys.argv[3])), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "possible", "limit"),
    [(512, 4096, 1000, 1000, 1256), (512, 1024, 1000, 768, 1024), (2048, 4096, 1000, 1000, 2048)],
    ids=["raised", "as-far-as-it-goes", "left-alone"],
)
def test_the_limit_is_raised_to_what_connections_need(
    soft: int, hard: int, wanted: int, possible: int, limit: int
) -> None:
    asked = [sys.executable, "-c", ASK, str(soft), str(hard), str(wanted)]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(possible), str(limit)]


@pytest.fixture
def pairs() -> Iterator[Callable[[int], list[tuple[socket.socket, socket.socket]]]]:
    with contextlib.ExitStack() as stack:

        def make(number: int) -> list[tuple[socket.socket, socket.socket]]:
            made = [socket.socketpair() for _ in range(number)]
            for one, other in made:
                stack.enter_context(one)
                stack.enter_context(other)
            return made

        yield make


def test_many_clients_are_asked_at_once_who_has_left(pairs: Any) -> None:
    made = (here, _), (left, its_end), (sends, its_next), (closed, _) = pairs(4)
    its_end.close()
    its_next.send(b"the next request")
    closed.close()
    assert departed(one for one, _ in made) == {left, closed}
    assert sends.recv(64) == b"the next request"  # nothing was read away
    assert departed([]) == set()
    assert departed([here]) == set()


def test_a_client_above_descriptor_1023_is_still_here(pairs: Any) -> None:
    """`select()` would say of it that it cannot be asked."""
    assert allow_connections(1100) == 1100
    here, its_end = pairs(520)[-1]
    assert here.fileno() > 1023
    assert departed([here]) == set()
    its_end.close()
    assert departed([here]) == {here}
