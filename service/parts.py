"""The images of one request when not all of them can be answered: as many as are admitted, the rest refused by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from service.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    EngineUnavailable,
    InferenceFailed,
    QueueFull,
    ServiceError,
)
from service.port import Answer, Rows

_TOO_MANY = (QueueFull, DeadlineUnreachable)
"""Refusals of admission: fewer images may be let in."""
_OVER = (DeadlineExceeded, EngineUnavailable)
"""What ends the request: no image after this one would be answered."""


def infer_parts(run: Callable[[Rows], Answer], rows: Rows) -> tuple[Answer, dict[int, ServiceError]]:
    """Run rows all together or, where that is refused, in the largest parts that are not; in their order.

    Returns the answer to the rows that ran, and the refusal of each that did not, by its place. A part is halved until
    it is admitted, and the next may be twice as large. An image that the network cannot run fails alone; once not even
    one image is admitted, the rest shares its refusal. Raises that refusal when no image was answered.
    """
    answers: list[Answer] = []
    refused: dict[int, ServiceError] = {}
    at, size = 0, len(rows)
    while at < len(rows):
        size = min(size, len(rows) - at)
        try:
            answers.append(run(rows[at : at + size]))
            at, size = at + size, size * 2
        except (*_TOO_MANY, *_OVER, InferenceFailed) as error:
            if size > 1 and not isinstance(error, _OVER):
                size //= 2
                continue
            end = at + 1 if isinstance(error, InferenceFailed) else len(rows)
            refused |= dict.fromkeys(range(at, end), error)
            at = end
    if not answers:
        raise refused[0]
    return _together(answers), refused


def _together(answers: list[Answer]) -> Answer:
    if len(answers) == 1:
        return answers[0]
    outputs = {name: np.concatenate([one.outputs[name] for one in answers]) for name in answers[0].outputs}
    timings = {stage: sum(one.timings[stage] for one in answers) for stage in answers[0].timings}
    return Answer(answers[0].model, outputs, timings, max(one.batch_size for one in answers))
