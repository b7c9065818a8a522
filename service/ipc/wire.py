"""The messages. Every one is a list of frames: id, kind, head, and for images the raw rows.

Times are seconds of the monotonic clock, which processes on one host share.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
from bundle.errors import ClearsightError

from service.errors import ServiceError, subclasses
from service.port import Answer, Rows, ServedModel

INFER, CANCEL, CALL, PING = b"i", b"x", b"c", b"p"
ANSWER, REFUSAL, RESULT = b"a", b"e", b"r"

_REQUEST = struct.Struct("<dII")
"""Deadline, number of the served version, images."""
_REPLY = struct.Struct("<ddddI")
"""Seconds in queue, assemble and infer; seconds that the next image would wait; images in the batch."""

_REFUSALS = subclasses()


def request_frames(number: bytes, served: int, rows: Rows, deadline: float, outputs: tuple[str, ...]) -> list[Any]:
    """Make the frames of an inference: rows travel as they lie in memory."""
    head = _REQUEST.pack(deadline, served, len(rows))
    return [number, INFER, head, ",".join(outputs).encode(), np.ascontiguousarray(rows)]


def parse_request(head: bytes) -> tuple[float, int, int]:
    """Return (deadline, number of the served version, images)."""
    deadline, served, images = _REQUEST.unpack(head)
    return deadline, served, images


def answer_frames(number: bytes, answer: Answer, wait_s: float) -> list[Any]:
    """Make the frames of an answer; outputs follow in the order that was asked for."""
    times = answer.timings
    head = _REPLY.pack(times["queue"], times["assemble"], times["infer"], wait_s, answer.batch_size)
    return [number, ANSWER, head, *(np.ascontiguousarray(value) for value in answer.outputs.values())]


def parse_answer(
    frames: list[bytes], served: ServedModel, images: int, outputs: tuple[str, ...]
) -> tuple[Answer, float]:
    """Return the answer, and the seconds that the next image would wait in the engine."""
    queue, assemble, infer, wait_s, batch = _REPLY.unpack(frames[2])
    shapes = _tails(served)
    values = {
        name: np.frombuffer(frame, np.float32).reshape(images, *shapes[name])
        for name, frame in zip(outputs, frames[3:], strict=True)
    }
    return Answer(served, values, {"queue": queue, "assemble": assemble, "infer": infer}, batch), wait_s


def _tails(served: ServedModel) -> dict[str, tuple[int, ...]]:
    """Return each output's shape without the batch; a free dimension is found from the bytes."""
    return {
        spec.name: tuple(size if isinstance(size, int) else -1 for size in spec.shape[1:])
        for spec in served.manifest.outputs
    }


def refusal_frames(number: bytes, error: ClearsightError) -> list[bytes]:
    """Make the frames of a refusal."""
    fields = {"code": error.code, "detail": error.detail, "retry_after_s": getattr(error, "retry_after_s", None)}
    return [number, REFUSAL, json.dumps(fields).encode()]


def parse_refusal(head: bytes) -> ServiceError:
    """Return the refusal as it was raised in the engine."""
    fields = json.loads(head)
    kind = _REFUSALS.get(fields["code"], ServiceError)
    return kind(fields["detail"], retry_after_s=fields["retry_after_s"])
