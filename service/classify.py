"""The way of every image through the service, whichever protocol it came by: resolve, ticket, prepare, infer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from bundle.errors import ClearsightError, ImageError, ImageSizeMismatch
from bundle.preprocess import Prepared, preprocess

from service.context import Context
from service.cost import is_quick
from service.errors import ModelRetired, Overloaded
from service.intake import client_of, deadline_of, integer_of
from service.loop import aside
from service.parts import infer_parts
from service.port import PROBABILITIES, Answer, Rows, ServedModel
from service.problems import note_fault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """Which model must answer, and by when (monotonic seconds)."""

    model: str | None
    version: int | None
    deadline: float


def target_of(ctx: Context, model: str | None, version: str | None) -> Target:
    """Return whom a request asks, and until when it waits. Raises `RequestInvalid`."""
    return Target(model, integer_of("version", version, None, 1), deadline_of(ctx.request, ctx.settings, ctx.started))


@dataclass(slots=True)
class Classified:
    """What became of the images: each prepared or refused, and one answer for those that were prepared."""

    served: ServedModel
    prepared: list[Prepared | ClearsightError]
    answer: Answer | None


class admitted:  # noqa: N801 - it is used like a function, and cheaper than one with @contextmanager
    """Hold a place for one request in flight, before its body is read; yields the version that answers.

    Raises `Overloaded`, and what `resolve` and `admit` do.
    """

    __slots__ = ("_ctx", "_target")

    def __init__(self, ctx: Context, target: Target) -> None:
        self._ctx = ctx
        self._target = target

    def __enter__(self) -> ServedModel:
        ctx, target = self._ctx, self._target
        served = ctx.engine.choose(target.model, target.version, ctx.request_id)
        if ctx.request.environ.get("clearsight.refused") or not ctx.tickets.acquire():
            raise Overloaded("Every place for a request in flight is taken.", retry_after_s=1.0)
        try:
            ctx.engine.admit(target.deadline, 1, target.model)
        except BaseException:
            ctx.tickets.release()
            raise
        return served

    def __exit__(self, *exception: object) -> None:
        self._ctx.tickets.release()


def classify(
    ctx: Context,
    served: ServedModel,
    images: list[bytes],
    target: Target,
    outputs: tuple[str, ...] = PROBABILITIES,
    *,
    alone: bool = False,
) -> Classified:
    """Prepare encoded images by the model's recipe and run the good ones; each gets its answer or its refusal.

    With `alone`, a bad image is raised. Raises a refusal of the engine when it concerns every image.
    """

    def attempt(served: ServedModel) -> Classified:
        prepared: list[Prepared | ClearsightError] = [prepare(ctx, served, data, alone) for data in images]
        ctx.mark("decode")
        good = {place: one.pixels for place, one in enumerate(prepared) if isinstance(one, Prepared)}
        if not good:
            return Classified(served, prepared, None)
        if len(good) == 1:
            (rows,) = good.values()
            return Classified(served, prepared, infer(ctx, served, rows[None], target.deadline, outputs))
        answer, refused = infer_parts(
            lambda rows: infer(ctx, served, rows, target.deadline, outputs), np.stack(list(good.values()))
        )
        places = list(good)
        for row, error in refused.items():
            prepared[places[row]] = error
        for error in set(refused.values()):
            note_fault(ctx, error)
        return Classified(served, prepared, answer)

    return with_successor(ctx, served, target, attempt)


def with_successor(ctx: Context, served: ServedModel, target: Target, attempt: Callable[[ServedModel], T]) -> T:
    """Run an attempt, once more with its successor where the version was swapped out meanwhile."""
    try:
        return attempt(served)
    except ModelRetired:
        return attempt(ctx.engine.resolve(target.model, target.version))


def prepare(ctx: Context, served: ServedModel, data: bytes, alone: bool) -> Prepared | ImageError:
    """Preprocess one image; a bad one is returned as its error, or raised when it is the only one."""
    manifest = served.manifest
    try:
        if is_quick(data):
            prepared = preprocess(data, manifest.preprocessing, ctx.limits)
        else:
            prepared = aside(preprocess, data, manifest.preprocessing, ctx.limits)
        if manifest.preprocessing.resize == "none" and prepared.pixels.shape[:2] != (manifest.height, manifest.width):
            raise ImageSizeMismatch(
                f"The image is {prepared.info.width}x{prepared.info.height}; this model takes"
                f" {manifest.width}x{manifest.height} and does not resize."
            )
        return prepared
    except ImageError as error:
        if alone:
            raise
        return error


def infer(ctx: Context, served: ServedModel, rows: Rows, deadline: float, outputs: tuple[str, ...]) -> Answer:
    """Run rows through the engine and keep its times."""
    answer = ctx.engine.infer(served, rows, deadline=deadline, outputs=outputs, client=client_of(ctx.request.environ))
    ctx.stages.update(answer.timings)
    ctx.batch_size = answer.batch_size
    ctx.last = time.perf_counter()
    return answer
