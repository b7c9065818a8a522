"""The statistics that drift is judged by mean what their names say."""

import numpy as np
import pytest

from bundle.drift import BRIGHTNESS_EDGES, baseline, histogram, measure


def flat(level, channels=3):
    return np.full((8, 8, channels), level, np.uint8)


def checkerboard():
    return ((np.indices((8, 8)).sum(axis=0) % 2) * 255).astype(np.uint8)[:, :, None]


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_a_flat_image_has_brightness_only(channels):
    measured = measure(flat(100, channels))
    assert measured.brightness == pytest.approx(100, abs=1e-3)
    assert measured.contrast == pytest.approx(0, abs=1e-3)
    assert measured.sharpness == pytest.approx(0, abs=1e-3)


def test_a_checkerboard_has_the_most_contrast_and_is_sharper_than_its_blur():
    sharp = measure(checkerboard())
    assert sharp.contrast == pytest.approx(127.5)
    blurred = ((checkerboard().astype(int) + np.roll(checkerboard(), 1, axis=0)) // 2).astype(np.uint8)
    assert measure(blurred).sharpness < sharp.sharpness


def test_an_image_too_small_for_a_laplacian_is_not_sharp():
    assert measure(np.zeros((2, 2, 1), np.uint8)).sharpness == 0


def test_values_outside_the_edges_count_at_the_ends():
    assert histogram([-5, 3, 700], BRIGHTNESS_EDGES).counts[0] == 2
    assert histogram([-5, 3, 700], BRIGHTNESS_EDGES).counts[-1] == 1


def test_a_baseline_counts_every_image_once_in_every_histogram():
    images = [flat(10), flat(200), checkerboard().repeat(3, axis=2)]
    drift = baseline(images, np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], np.float32), ("a", "b"))
    assert drift.predicted == {"a": 1, "b": 2}
    for part in (drift.brightness, drift.contrast, drift.sharpness, drift.confidence):
        assert sum(part.counts) == drift.n == 3
