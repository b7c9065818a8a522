"""One request of many images under refusal: every image has an answer or an error, in order, at a bounded price."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from service.errors import DeadlineExceeded, DeadlineUnreachable, InferenceFailed, QueueFull
from service.parts import infer_parts
from service.port import Answer, Rows


class FakeEngine:
    """Answers each row with its own number; refuses as it is told, and counts how often it was asked."""

    def __init__(self, refuses: Callable[[Rows, int], Exception | None]) -> None:
        self.refuses = refuses
        self.done = 0
        self.asked = 0

    def run(self, rows: Rows) -> Answer:
        self.asked += 1
        error = self.refuses(rows, self.done)
        if error:
            raise error
        self.done += len(rows)
        values = rows.reshape(len(rows), -1)[:, :1].astype(np.float32)
        return Answer(None, {"probabilities": values}, {"infer": 0.1}, len(rows))  # type: ignore[arg-type]


def rows_of(count: int) -> Rows:
    return np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)


def outcome(engine: FakeEngine, count: int) -> list[object]:
    """The number that answered each row, or the code of its refusal."""
    answer, refused = infer_parts(engine.run, rows_of(count))
    values = iter(answer.outputs["probabilities"][:, 0].tolist())
    return [refused[row].code if row in refused else next(values) for row in range(count)]


def test_what_is_admitted_together_runs_together() -> None:
    engine = FakeEngine(lambda rows, done: None)
    assert outcome(engine, 64) == list(range(64))
    assert engine.asked == 1


@pytest.mark.parametrize("most", [1, 3, 16, 63])
def test_a_queue_that_takes_fewer_at_a_time_gets_them_in_parts(most: int) -> None:
    engine = FakeEngine(lambda rows, done: QueueFull("full") if len(rows) > most else None)
    assert outcome(engine, 64) == list(range(64))
    assert engine.asked <= 2 * 64 + 7


@pytest.mark.parametrize("kind", [DeadlineUnreachable, QueueFull, DeadlineExceeded])
def test_the_rest_shares_the_refusal_of_the_first_that_is_not_let_in(kind: type[Exception]) -> None:
    engine = FakeEngine(lambda rows, done: kind("late") if done >= 16 else QueueFull("f") if len(rows) > 16 else None)
    found = outcome(engine, 64)
    assert found == [*range(16), *[kind.code] * 48]  # type: ignore[attr-defined]
    assert engine.asked <= 10


@pytest.mark.parametrize("poisoned", [{0}, {31}, {63}, {5, 6, 40}])
def test_an_image_that_the_network_cannot_run_fails_alone(poisoned: set[int]) -> None:
    def refuses(rows: Rows, done: int) -> Exception | None:
        return InferenceFailed("poison") if poisoned & set(rows.ravel().tolist()) else None

    engine = FakeEngine(refuses)
    assert outcome(engine, 64) == ["inference.failed" if n in poisoned else n for n in range(64)]
    assert engine.asked <= 32 * len(poisoned)


@pytest.mark.parametrize("kind", [QueueFull, InferenceFailed, DeadlineExceeded])
def test_a_refusal_of_every_image_is_the_answer_to_the_request(kind: type[Exception]) -> None:
    engine = FakeEngine(lambda rows, done: kind("no"))
    with pytest.raises(kind):
        infer_parts(engine.run, rows_of(64))
    assert engine.asked <= 64 + 6
