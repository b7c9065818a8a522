"""What else a machine does while a latency is measured does not decide which variant serves."""

from __future__ import annotations

import numpy as np
import pytest
from factory import color_draft

import training.latency as latency


@pytest.fixture
def graphs():
    raw = color_draft().variants["fp32"].raw
    row = np.zeros((8, 8, 3), np.uint8)
    return {"fp32": (raw, row), "int8": (raw, row)}


def test_a_disturbed_pass_does_not_count(graphs, monkeypatch):
    """Each size is timed three times; a neighbour that takes the cores during two of them changes nothing."""
    disturbance = iter([1000.0, 1.0, 1.0, 50.0, 70.0, 80.0])
    kind = {"fp32": 0.004, "int8": 0.002}

    def rounds(opened, rows):
        factor, size = next(disturbance), len(rows["fp32"])
        return {name: [factor * kind[name] * size] * 5 for name in opened}

    monkeypatch.setattr(latency, "_rounds", rounds)
    monkeypatch.setattr(latency, "LONGEST_S", 1e9)
    found = latency.measure_latency(graphs, (1, 8))
    assert found == {"fp32": {1: [0.004] * 5, 8: [0.032] * 5}, "int8": {1: [0.002] * 5, 8: [0.016] * 5}}


def test_graphs_take_turns_and_every_size_has_its_rounds(graphs):
    found = latency.measure_latency(graphs, (1, 4))
    assert all(list(by_size) == [1, 4] for by_size in found.values())
    for size in (1, 4):
        counts = {len(by_size[size]) for by_size in found.values()}
        assert len(counts) == 1 and latency.FEWEST_ROUNDS <= counts.pop() <= latency.MOST_ROUNDS
    assert all(seconds > 0 for by_size in found.values() for rounds in by_size.values() for seconds in rounds)
