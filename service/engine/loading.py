"""From a bundle on disk to a lane that may answer: verify, open, prove on the golden images, measure, plan."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import structlog
from bundle.errors import BundleError
from bundle.integrity import read_graph
from bundle.manifest import VariantName
from bundle.preprocess import preprocess
from bundle.store import Bundle

from service.engine.devices import Device
from service.engine.kernels import by_matrix_product, has_tiles
from service.engine.lone import Faster
from service.engine.network import BUCKETS, Network, open_session
from service.engine.plan import BatchTooLarge, Plan, choose_cap, measure_curve
from service.engine.tuning import machine, read_tuning
from service.engine.variants import rank_variants, unmeasured
from service.engine.work import Lane
from service.port import PROBABILITIES, Rows, ServedModel
from service.quota import available_cores
from service.settings import Settings

_LONE_ROUNDS = 3
_KERNEL_ROUNDS, _KERNEL_IMAGES = 3, 4
_KERNEL_GAIN = 1.02
_VARIANT_GAIN = 1.1
"""How much faster less exact numbers must be where the bundle does not know how fast they are."""

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(logging.getLogger("clearsight.engine"))


@dataclass(frozen=True, slots=True)
class Threading:
    """How many batches run at once, with how many threads each, and all the threads there are."""

    runners: int
    threads: int
    cores: int
    source: str = "cores"
    """Where this comes from: `settings`, `tuning` (what `tune` stored for this machine), or `cores` (their number)."""


def decide_threading(settings: Settings, device: Device) -> Threading:
    """Share the cores between batches: as the settings say, as `tune` found here, or one thread for each core."""
    cores = available_cores()
    where = machine(device.provider)
    tuned = read_tuning(settings.tuning, where)
    if settings.tuning is not None and not tuned:
        log.warning("tuning.unused", file=str(settings.tuning), reason=f"it holds nothing for {where}")
    runners = settings.runners or tuned.get("runners", 0) or (cores if device.splits else 2)
    threads = settings.runner_threads or tuned.get("threads", 0) or max(1, cores // runners)
    chosen = settings.runners or settings.runner_threads
    return Threading(runners, threads, cores, "settings" if chosen else "tuning" if tuned else "cores")


def load_lane(bundle: Bundle, device: Device, threading: Threading, settings: Settings) -> tuple[Lane, str]:
    """Return a lane for the best variant that proves itself, and a sentence when it is not the first choice.

    Raises `BundleError` when a file is wrong or when no variant gives its golden answers.
    """
    manifest = bundle.manifest
    best = prepare_best(bundle, device, threading, settings)
    provider = best.network.provider
    served = ServedModel(manifest.name, manifest.version, bundle.digest, best.variant, provider, manifest)
    return Lane(served, best.network, best.plan), best.fallen


@dataclass(frozen=True, slots=True)
class Prepared:
    """A variant that is ready to run, and what was refused before it."""

    variant: VariantName
    network: Network
    plan: Plan
    fallen: str = ""


def prepare_best(bundle: Bundle, device: Device, threading: Threading, settings: Settings) -> Prepared:
    """Prepare the best variant that proves itself: of those whose speed the bundle knows the first, unless one whose
    speed it does not know is found to be faster.

    Raises `BundleError` when a file is wrong or when no variant gives its golden answers.
    """
    manifest = bundle.manifest
    asked = (manifest, device.provider, settings.variant, settings.max_accuracy_loss)
    fallen: list[str] = []

    def attempt(variant: VariantName) -> Prepared | None:
        try:
            network, plan = prepare(bundle, variant, device, threading, settings)
        except BundleError as error:
            fallen.append(error.detail)
            log.warning("variant.refused", model=manifest.name, version=manifest.version, reason=error.detail)
            return None
        return Prepared(variant, network, plan)

    best = next(filter(None, map(attempt, rank_variants(*asked))), None)
    for rival in filter(None, map(attempt, unmeasured(*asked))):
        wins = best is None or rival.plan.seconds_per_image * _VARIANT_GAIN < best.plan.seconds_per_image
        loser, best = (best, rival) if wins else (rival, best)
        if loser:
            loser.network.close()
    if best is None:
        raise BundleError("; ".join(fallen))
    return replace(best, fallen="; ".join(fallen))


def prepare(
    bundle: Bundle, variant: VariantName, device: Device, threading: Threading, settings: Settings
) -> tuple[Network, Plan]:
    """Open one variant, replay the golden images on every session, and measure its curve. Raises `BundleError`."""
    manifest = bundle.manifest
    shape = (manifest.height, manifest.width, manifest.preprocessing.channels)
    noise = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    model, network = _open_faster(bundle, variant, device, threading.threads, noise)
    objective_s = settings.p99_objective_ms / 1000

    def run(n: int) -> object:
        with _of(n):
            return network.run(np.repeat(noise, n, axis=0), PROBABILITIES)

    sizes: tuple[int, ...] = (manifest.fixed_batch,) if manifest.fixed_batch else BUCKETS
    most = settings.max_batch or max(1, settings.workers * settings.tickets // threading.runners)
    if not manifest.fixed_batch:
        sizes = tuple(size for size in sizes if size <= most)

    def ready(n: int) -> None:
        with _of(n):
            if network.open_size(n):
                replay_golden(bundle, variant, network, batch=n)

    curve = measure_curve(run, sizes, settings.warmup_s, objective_s, ready=ready)
    lone_s = curve.latency(1)
    if device.provider == "cpu" and threading.threads == 1 < threading.cores and not manifest.fixed_batch:
        network.wide = open_session(model, device, threading.cores)
        replay_golden(bundle, variant, network, network.wide)
        network.faster = _compare(network, noise)
        lone_s = network.faster.seconds
    network.shrink(np.repeat(noise, network.padded_size(1), axis=0), PROBABILITIES)
    cap = manifest.fixed_batch or choose_cap(curve, objective_s, settings.max_batch)
    for n in (*(size for size in sizes if size < cap), cap):  # where a cap was set, not all were measured
        ready(n)
    network.keep_sizes(cap)
    shared = not device.splits
    plan = Plan(curve, cap, threading.runners, threading.threads, objective_s, lone_s, threading.source, shared)
    return network, plan


@contextlib.contextmanager
def _of(n: int) -> Iterator[None]:
    """Turn what onnxruntime raises about a batch of n images into `BatchTooLarge`."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:  # the native layer raises several unrelated types
        raise BatchTooLarge(f"a batch of {n} does not run: {str(error).splitlines()[0][:200]}") from None


def replay_golden(bundle: Bundle, variant: VariantName, network: Network, session: Any = None, batch: int = 1) -> None:
    """Check that the golden images give their stored probabilities within the tolerance of variant and provider.

    `session`: which of the network's; the one that carries the load unless it is given. `batch`: how many times over
    each image runs at once.

    Raises `BundleError` naming the image and the difference.
    """
    manifest = bundle.manifest
    tolerance = manifest.golden.tolerance.get(variant, {}).get(network.provider)  # type: ignore[call-overload]
    where = f"{manifest.name}/{manifest.version} {variant} on {network.provider}"
    if tolerance is None:
        raise BundleError(f"{where}: the bundle states no golden tolerance, so it cannot prove itself")
    for golden in manifest.golden.images:
        pixels = preprocess(bundle.read(golden.file), manifest.preprocessing).pixels
        rows = np.repeat(pixels[None], batch, axis=0)
        answers = network.run_on(session or network.session, rows, PROBABILITIES)["probabilities"]
        difference = float(np.abs(answers - np.asarray(golden.probabilities, np.float32)).max())
        if not difference <= tolerance:
            raise BundleError(f"{where}: {golden.file} differs by {difference:.2g}; {tolerance:.2g} is allowed")
        wanted = int(np.argmax(golden.probabilities))
        got = next((int(best) for best in answers.argmax(axis=1) if best != wanted), wanted)
        if got != wanted:
            said = manifest.labels[got]
            raise BundleError(f"{where}: {golden.file} gives {said!r} instead of {manifest.labels[wanted]!r}")


def _open_faster(
    bundle: Bundle, variant: VariantName, device: Device, threads: int, row: Rows
) -> tuple[bytes, Network]:
    """Open a variant, proven on the golden images, with those int8 convolutions that are faster here."""
    manifest = bundle.manifest
    model = read_graph(bundle, manifest.variants[variant].file)
    network = _open(model, device, threads, manifest.fixed_batch)
    replay_golden(bundle, variant, network)
    if variant != "int8" or device.provider != "cpu" or not has_tiles():
        return model, network
    try:
        other = by_matrix_product(model)
        if other is None:
            return model, network
        challenger = _open(other, device, threads, manifest.fixed_batch)
        replay_golden(bundle, variant, challenger)
    except BundleError as error:  # the file as it is has proven itself
        log.warning("kernels.refused", model=manifest.name, version=manifest.version, reason=error.detail)
        return model, network
    rows = np.repeat(row, manifest.fixed_batch or _KERNEL_IMAGES, axis=0)
    seconds = _in_turns(network, [network.session, challenger.session], rows, _KERNEL_ROUNDS)
    if min(seconds[1]) * _KERNEL_GAIN > min(seconds[0]):
        return model, network
    challenger.matrix_products = True
    return other, challenger


def _open(model: bytes, device: Device, threads: int, fixed_batch: int | None) -> Network:
    try:
        another = partial(open_session, model, device, threads)
        return Network(another(), device, fixed_batch, another if device.pads and not fixed_batch else None)
    except Exception as error:  # the native layer raises several unrelated types
        raise BundleError(f"onnxruntime cannot open the graph: {str(error).splitlines()[0][:200]}") from None


def _compare(network: Network, row: Rows) -> Faster:
    """Measure what one image takes either session."""
    return Faster(*_in_turns(network, [network.session, network.wide], row, _LONE_ROUNDS))


def _in_turns(network: Network, sessions: list[Any], rows: Rows, rounds: int) -> list[list[float]]:
    """Return the seconds that the rows took each session, in rounds, so that each met the same machine."""
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for took, session in zip(seconds, sessions, strict=True):
            before = time.perf_counter()
            network.run_on(session, rows, PROBABILITIES)
            took.append(time.perf_counter() - before)
    return seconds
