"""The messages between workers and engine.

Rows and their answers travel on stream sockets, one for a worker's loop and one for each thread at work: a head of
fixed size, then bytes as they lie in memory. Everything rare travels over zmq as lists of frames: id, kind, rest. Times
are seconds of the monotonic clock, which processes on one host share.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from bundle.errors import ClearsightError

from service.errors import ServiceError, subclasses
from service.port import Answer, Rows, ServedModel

CALL, PING = b"c", b"p"
REFUSAL, RESULT = b"e", b"r"

INFER, CANCEL, ANSWER = b"i", b"x", b"a"
HEAD = struct.Struct("<cxxxQQ")
"""Kind, number of the request, bytes that follow; padded so that floats behind it lie where numpy wants them."""
_REQUEST = struct.Struct("<dIIH")
"""Deadline, number of the served version, images, bytes of the outputs' names."""
_REPLY = struct.Struct("<ddddI")
"""Seconds in queue, assemble and infer; seconds that the next image would wait; images in the batch."""

_REFUSALS = subclasses()


@dataclass(slots=True)
class Inference:
    """A request for the engine; `rows` are uint8 bytes that the served version gives a shape."""

    deadline: float
    served: int
    images: int
    outputs: tuple[str, ...]
    rows: memoryview


def pack_inference(number: int, served: int, rows: Rows, deadline: float, outputs: tuple[str, ...]) -> list[Any]:
    """Make the parts of an inference: rows travel as they lie in memory."""
    names = ",".join(outputs).encode()
    request = _REQUEST.pack(deadline, served, len(rows), len(names))
    head = HEAD.pack(INFER, number, len(request) + len(names) + rows.nbytes)
    return [head + request + names, np.ascontiguousarray(rows).data]


def parse_inference(payload: memoryview) -> Inference:
    """Read an inference's payload. Raises `struct.error` or `UnicodeDecodeError` where it is none."""
    deadline, served, images, length = _REQUEST.unpack_from(payload)
    rows = _REQUEST.size + length
    return Inference(
        deadline, served, images, tuple(str(payload[_REQUEST.size : rows], "utf-8").split(",")), payload[rows:]
    )


def pack_cancel(number: int) -> bytes:
    """Make the message that nobody waits for a request any more."""
    return HEAD.pack(CANCEL, number, 0)


def pack_answer(number: int, answer: Answer, wait_s: float) -> bytes:
    """Make the bytes of an answer; outputs follow in the order that was asked for, their lengths before them."""
    times, values = answer.timings, answer.outputs.values()
    head = _REPLY.pack(times["queue"], times["assemble"], times["infer"], wait_s, answer.batch_size)
    lengths = struct.pack(f"<{len(values)}I", *(value.size for value in values))
    payload = b"".join([head, lengths, *(value.tobytes() for value in values)])
    return HEAD.pack(ANSWER, number, len(payload)) + payload


def parse_answer(
    payload: memoryview, served: ServedModel, images: int, outputs: tuple[str, ...]
) -> tuple[Answer, float]:
    """Return the answer, and the seconds that the next image would wait in the engine."""
    queue, assemble, infer, wait_s, batch = _REPLY.unpack_from(payload)
    lengths = struct.unpack_from(f"<{len(outputs)}I", payload, _REPLY.size)
    start = _REPLY.size + 4 * len(outputs)
    values = {}
    for name, length in zip(outputs, lengths, strict=True):
        flat = np.frombuffer(payload, np.float32, length, start)
        values[name] = flat.reshape(images, *_tail(served, name))
        start += flat.nbytes
    return Answer(served, values, {"queue": queue, "assemble": assemble, "infer": infer}, batch), wait_s


def _tail(served: ServedModel, output: str) -> tuple[int, ...]:
    """Return an output's shape without the batch; a free dimension is found from the bytes."""
    spec = next(spec for spec in served.manifest.outputs if spec.name == output)
    return tuple(size if isinstance(size, int) else -1 for size in spec.shape[1:])


def pack_refusal(number: int, error: ClearsightError) -> bytes:
    """Make the bytes of a refusal."""
    payload = _refusal(error)
    return HEAD.pack(REFUSAL, number, len(payload)) + payload


def refusal_frames(number: bytes, error: ClearsightError) -> list[bytes]:
    """Make the frames of a refusal."""
    return [number, REFUSAL, _refusal(error)]


def _refusal(error: ClearsightError) -> bytes:
    fields = {"code": error.code, "detail": error.detail, "retry_after_s": getattr(error, "retry_after_s", None)}
    return json.dumps(fields).encode()


def parse_refusal(payload: bytes | memoryview) -> ServiceError:
    """Return the refusal as it was raised in the engine."""
    fields = json.loads(bytes(payload))
    kind = _REFUSALS.get(fields["code"], ServiceError)
    return kind(fields["detail"], retry_after_s=fields["retry_after_s"])
