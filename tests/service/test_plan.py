from __future__ import annotations

from dataclasses import replace

import pytest

from service.engine.plan import BatchTooLarge, Curve, Plan, choose_cap, measure_curve, predict_latency

LINEAR = Curve({1: 0.010, 2: 0.020, 4: 0.040, 8: 0.080})
"""No gain from batching, as on a core."""
FLAT = Curve({1: 0.010, 2: 0.011, 4: 0.012, 8: 0.014, 16: 0.022})
"""Nearly free images, as on an accelerator."""


@pytest.mark.parametrize(
    ("curve", "objective_s", "cap"),
    [(LINEAR, 1.0, 8), (LINEAR, 0.3, 2), (FLAT, 1.0, 16), (FLAT, 0.030, 8), (FLAT, 0.001, 1)],
    ids=["no-gain-but-quick", "no-gain-and-slow", "gain", "two-batches-must-fit", "nothing-fits"],
)
def test_the_cap_is_the_largest_batch_that_pays_and_fits_the_objective(
    curve: Curve, objective_s: float, cap: int
) -> None:
    assert choose_cap(curve, objective_s) == cap


def test_a_latency_between_and_beyond_measured_sizes_lies_on_a_line() -> None:
    assert LINEAR.latency(3) == pytest.approx(0.030)
    assert LINEAR.latency(16) == pytest.approx(0.160)
    assert Curve({4: 0.02}).latency(1) == pytest.approx(0.02)


def plan(curve: Curve, cap: int, runners: int = 1) -> Plan:
    return Plan(curve, cap, runners, 1, 1.0, curve.latency(1))


def test_the_predicted_latency_grows_with_the_rate_and_is_endless_above_capacity() -> None:
    at = [predict_latency(plan(FLAT, 8), rate) for rate in (1, 50, 300, 500)]
    assert at == sorted(at)
    assert at[0] == pytest.approx(0.010, rel=0.2)
    assert predict_latency(plan(FLAT, 8), 600) == float("inf")


def test_two_runners_hold_twice_the_rate() -> None:
    assert predict_latency(plan(LINEAR, 1), 120) == float("inf")
    assert predict_latency(plan(LINEAR, 1, runners=2), 120) < 0.2


def test_runners_that_share_an_accelerator_hold_what_one_holds() -> None:
    shared = replace(plan(LINEAR, 1, runners=2), shared=True)
    assert shared.seconds_per_image == plan(LINEAR, 1).seconds_per_image
    assert predict_latency(shared, 80) == predict_latency(plan(LINEAR, 1), 80)


def test_measuring_stops_before_a_batch_that_does_not_run() -> None:
    def run(n: int) -> None:
        if n > 4:
            raise BatchTooLarge("no memory")

    assert set(measure_curve(run, (1, 2, 4, 8, 16), 1.0, 1.0).seconds) == {1, 2, 4}
    assert set(measure_curve(lambda n: None, (1, 2, 4, 8), 1.0, 1.0, ready=run).seconds) == {1, 2, 4}
    with pytest.raises(BatchTooLarge):
        measure_curve(run, (8, 16), 1.0, 1.0)


def test_measuring_stops_at_its_budget_and_at_half_the_objective() -> None:
    sizes: list[int] = []
    measure_curve(sizes.append, (1, 2, 4, 8), budget_s=0.0, objective_s=1.0)
    assert set(sizes) == {1}
    assert set(measure_curve(lambda n: None, (1, 2, 4, 8), 1.0, 1.0).seconds) == {1, 2, 4, 8}
