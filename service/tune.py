"""`python -m service tune`: measure, under load, how many batches of how many threads this machine runs best."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
from bundle.store import Bundle, Store

from service.engine.devices import Device, choose_device
from service.engine.loading import Threading, prepare_best
from service.engine.network import Network
from service.engine.tuning import machine
from service.port import PROBABILITIES
from service.quota import available_cores
from service.settings import Settings

_ROUND_S = 1.5
_ROUNDS = 3


def tune(settings: Settings) -> dict[str, object]:
    """Measure every split of the cores with the default model, write the best into the tuning file, and return it.

    The result holds `runners`, `threads` and, for each split, the median images per second of some interleaved rounds.
    """
    bundle = Store(settings.store).open(settings.default_model)
    device, _ = choose_device(settings, bundle.read(bundle.manifest.variants["fp32"].file))
    contenders = {split: _open(bundle, device, split, settings) for split in _splits(device, available_cores())}
    measured: dict[tuple[int, int], list[float]] = {split: [] for split in contenders}
    for _ in range(_ROUNDS):
        for split, (network, batch) in contenders.items():
            measured[split].append(_images_per_second(network, bundle, split[0], batch))
    medians = {split: float(np.median(rates)) for split, rates in measured.items()}
    runners, threads = max(medians, key=medians.__getitem__)
    found: dict[str, object] = {
        "runners": runners,
        "threads": threads,
        "model": f"{bundle.manifest.name}/{bundle.manifest.version}",
        "images_per_second": {f"{r} runners x {t} threads": round(rate, 1) for (r, t), rate in medians.items()},
    }
    if settings.tuning is not None:
        _write(settings.tuning, machine(device.provider), found)
    return found


def _splits(device: Device, cores: int) -> list[tuple[int, int]]:
    """List (runners, threads each): every way to share the cores, or one to three batches on an accelerator."""
    if not device.splits:
        return [(1, 1), (2, 1), (3, 1)]
    return [(cores // threads, threads) for threads in range(1, cores + 1) if cores % threads == 0]


def _open(bundle: Bundle, device: Device, split: tuple[int, int], settings: Settings) -> tuple[Network, int]:
    best = prepare_best(bundle, device, Threading(*split, cores=split[1]), settings)
    return best.network, best.plan.cap


def _images_per_second(network: Network, bundle: Bundle, runners: int, batch: int) -> float:
    """Keep every runner busy for a while and count the images."""
    manifest = bundle.manifest
    shape = (batch, manifest.height, manifest.width, manifest.preprocessing.channels)
    rows = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    end = time.perf_counter() + _ROUND_S
    done = [0] * runners

    def work(index: int) -> None:
        while time.perf_counter() < end:
            network.run(rows, PROBABILITIES)
            done[index] += batch

    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def _write(path: Path, machine: str, found: dict[str, object]) -> None:
    """Keep what other machines found in the same file."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps({**known, machine: found}, indent=1) + "\n")
    temporary.replace(path)
