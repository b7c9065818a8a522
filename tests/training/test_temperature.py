"""Temperature scaling finds the temperature that confidence was made with."""

import numpy as np
import pytest
from scipy.special import softmax

from training.temperature import fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20000, 5)).astype(np.float32)
    chances = softmax(logits, axis=1)
    targets = (random.random((20000, 1)) < chances.cumsum(axis=1)).argmax(axis=1)
    assert fit_temperature(logits * np.float32(temperature), targets) == pytest.approx(temperature, rel=0.05)


def test_images_that_are_all_right_leave_it_at_one():
    logits = np.eye(3, dtype=np.float32)
    assert fit_temperature(logits, np.arange(3)) == 1.0


def test_no_images_leave_it_at_one():
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, int)) == 1.0
