"""Which session answers a lone request."""

from __future__ import annotations

import time

import numpy as np
import pytest

from service.engine.devices import CPU
from service.engine.lone import Faster
from service.engine.network import Network


def answered(faster: Faster, calls: int, narrow_s: float, wide_s: float) -> list[bool]:
    """Which session each of so many requests went to, on a machine where they take so long."""
    picked = []
    for _ in range(calls):
        wide = faster.pick()
        faster.learn(wide, wide_s if wide else narrow_s)
        picked.append(wide)
    return picked


def test_a_measurement_on_a_busy_machine_is_not_for_ever() -> None:
    """At the start the second core was somebody else's; the eighth request finds that it is free now."""
    picked = answered(Faster([0.052], [0.065]), 20, narrow_s=0.052, wide_s=0.027)
    assert picked == [False] * 7 + [True] * 13


def test_the_slower_session_is_tried_so_rarely_that_p99_does_not_show_it() -> None:
    picked = answered(Faster([0.052], [0.027]), 256 * 20, narrow_s=0.052, wide_s=0.027)
    assert [call for call, wide in enumerate(picked, 1) if not wide] == [8, 64, *range(256, 256 * 21, 256)]


def test_one_disturbed_request_changes_nothing_and_five_do() -> None:
    faster = Faster([0.052] * 5, [0.027] * 5)
    faster.learn(True, 0.5)
    assert faster.wide
    for _ in range(4):
        faster.learn(True, 0.5)
    assert not faster.wide
    assert faster.seconds == 0.052


def test_all_threads_must_be_clearly_faster() -> None:
    assert not Faster([0.030], [0.029]).wide
    assert Faster([0.030], [0.025]).wide


class Session:
    """In place of an onnxruntime session: says who ran, and takes its time."""

    def __init__(self, name: float, seconds: float = 0.0) -> None:
        self.name, self.seconds = name, seconds

    def get_outputs(self) -> list[object]:
        return []

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def run(self, outputs: list[str], rows: dict[str, np.ndarray]) -> list[np.ndarray]:
        time.sleep(self.seconds)
        return [np.full((len(rows["image"]), 1), self.name, np.float32) for _ in outputs]


@pytest.mark.parametrize(("alone", "who"), [(True, 2.0), (False, 1.0)])
def test_only_a_lone_request_goes_to_all_threads(alone: bool, who: float) -> None:
    network = Network(Session(1.0), CPU, None)
    network.wide, network.faster = Session(2.0), Faster([0.05], [0.02])
    assert network.run(np.zeros((1, 4, 4, 3), np.uint8), ["probabilities"], alone)["probabilities"] == who


def test_the_network_learns_from_single_images_only() -> None:
    """All threads seemed faster at the start; five requests show that they are not, and two images show nothing."""
    network = Network(Session(1.0), CPU, None)
    network.wide, network.faster = Session(2.0, seconds=0.02), Faster([0.01], [0.005])
    who = [float(network.run(np.zeros((n, 1, 1, 3), np.uint8), ["p"], True)["p"][0, 0]) for n in (2, 1, 1, 1, 1, 1, 1)]
    assert who == [2.0] * 6 + [1.0]
