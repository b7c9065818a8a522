"""Which worker has the fewest connections."""

from __future__ import annotations

import os

from service.crowd import SLOTS, Crowd


def test_the_fewest_connections_are_those_of_another_worker_that_is_there() -> None:
    crowd = Crowd()
    assert crowd.least(besides=1) is None
    crowd.hold(1, 0)
    assert crowd.least(besides=1) is None
    crowd.hold(2, 7)
    crowd.hold(SLOTS + 3, 4)
    assert crowd.least(besides=1) == 4
    assert crowd.least(besides=SLOTS + 3) == 0
    crowd.leave(SLOTS + 3)
    assert crowd.least(besides=1) == 7


def test_a_forked_process_shares_the_counts() -> None:
    crowd = Crowd()
    child = os.fork()
    if child == 0:
        crowd.hold(5, 3)
        os._exit(0)
    os.waitpid(child, 0)
    assert crowd.least(besides=1) == 3
