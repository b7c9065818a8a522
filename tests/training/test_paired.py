"""The comparison of two classifiers on the same images agrees with what can be counted by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from training.paired import compare, paired_interval


def answers(n, first_wrong, second_wrong, both_wrong):
    """Targets are all 0; a wrong answer is 1 for the first and 2 for the second."""
    first, second = np.zeros(n, int), np.zeros(n, int)
    first[:first_wrong] = 1
    second[first_wrong : first_wrong + second_wrong] = 2
    first[n - both_wrong :] = 1
    second[n - both_wrong :] = 2
    return first, second, np.zeros(n, int)


def test_counts_and_difference():
    found = compare(*answers(200, 3, 9, 10))
    assert (found.first_only, found.second_only) == (9, 3)
    assert found.difference == pytest.approx(-0.03)
    assert found.agreement == pytest.approx(1 - 22 / 200)


def test_few_discordant_images_are_counted_exactly():
    found = compare(*answers(200, 3, 9, 0))
    assert found.p_value == pytest.approx(binomtest(3, 12).pvalue)


def test_equal_answers_differ_by_nothing():
    found = compare(*answers(100, 0, 0, 5))
    assert found.difference == 0
    assert found.p_value == 1
    assert found.interval[0] < 0 < found.interval[1]


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.9), (0.95, 0.9)], ids=["equal", "worse"])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(first, second):
    random, covered = np.random.default_rng(3), 0
    for _ in range(400):
        right = random.random((300, 2)) < (first, second)
        b, c = int((right[:, 0] & ~right[:, 1]).sum()), int((~right[:, 0] & right[:, 1]).sum())
        low, high = paired_interval(b, c, 300)
        covered += low <= second - first <= high
    assert 0.92 <= covered / 400 <= 0.98
