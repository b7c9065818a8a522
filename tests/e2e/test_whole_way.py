"""What training measured is what production serves, from recipe to HTTP answer, with real processes only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest

from bench.fidelity import Expected, batch_sizes, compare, post, probabilities_of
from bundle.store import Store
from tests.running import ROOT, serving
from training.data import open_dataset
from training.recipe import Data

pytestmark = pytest.mark.timeout(900)  # real trainings, exports and servers, on whatever machine there is

CLIENTS = 16
LENIENT = [
    part
    for value in (
        *("train.epochs=1", "gate.max_top1_drop=0.9", "gate.significance=1e-9", "gate.max_class_recall_drop=0.9"),
        *("gate.max_ece_rise=0.9", "gate.max_latency_ratio=100.0"),
    )
    for part in ("--set", value)
]
"""One epoch, and a gate that lets it through: what is tested is the switch, not the candidate."""
RETRAIN_CLIENTS = 4  # enough to be in every moment of the switch, and to leave the retraining a core
TOLERANCE = 1e-4


def run(*arguments: object) -> str:
    """Run a `python -m …` command of the project and return what it printed."""
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # tiny networks: a second thread only waits
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers(bundle: Path, folder: Path) -> list[Expected]:
    """Return the test split as `evaluate` answers it through onnxruntime, with the encoded images."""
    version = json.loads((bundle / "bundle.json").read_text())["version"]
    file = folder / f"answers-{version}.json"
    run("training", "evaluate", bundle, "--json", file)
    split = open_dataset("digits", Data()).test
    wanted = json.loads(file.read_text())["images"]
    assert [split.digest(i) for i in range(len(split))] == [one["digest"] for one in wanted]
    return [Expected(split.encoded(i), one["top1"], one["probabilities"]) for i, one in enumerate(wanted)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one digits classifier, trained for a few epochs and exported by the command line."""
    root = tmp_path_factory.mktemp("whole-way")
    printed = run("training", "train", "digits", "--set", "train.epochs=4", "--runs", root / "runs")
    run("training", "export", printed.splitlines()[-1], "--store", root / "store")
    return root / "store"


def test_every_served_answer_is_the_evaluated_one(store, tmp_path):
    """All test images, many concurrent clients: the same top-1, the same probabilities, in batches."""
    expected = answers(store / "digits" / "1", tmp_path)
    with serving(store, "digits", variant="fp32") as service:
        outcome = compare(service.url, expected * 2, CLIENTS)
        images, batches = batch_sizes(service.url, "digits")
    assert outcome.faithful(TOLERANCE), outcome
    assert images >= outcome.sent
    assert images > batches, "no batch held more than one image"


def test_a_retrain_under_load_switches_versions_without_a_wrong_or_failed_answer(store, tmp_path):
    """Every answer is judged by the version that it names, and both versions answer."""
    replies: list[tuple[int, int, dict]] = []
    images = [one.data for one in answers(store / "digits" / "1", tmp_path)]
    stop = threading.Event()
    with serving(store, "digits", variant="fp32", watch_s=0.2) as service, ThreadPoolExecutor(RETRAIN_CLIENTS) as pool:

        def client(start: int) -> None:
            for index in cycle(range(len(images))):
                if stop.is_set():
                    return
                which = (start * 17 + index) % len(images)
                replies.append((which, *post(service.url, images[which], 10)))

        loops = [pool.submit(client, start) for start in range(RETRAIN_CLIENTS)]
        try:
            run("training", "retrain", "--model", "digits", "--store", store, *LENIENT)
            Store(store).promote("digits", 2)
            seen = threading.Event()
            for _ in range(600):
                if replies[-1][2]["model"]["version"] == "2":
                    break
                seen.wait(0.1)
        finally:
            stop.set()
        for loop in loops:
            loop.result()
    expected = {str(v): answers(store / "digits" / str(v), tmp_path) for v in (1, 2)}
    assert {status for _, status, _ in replies} == {200}
    assert {reply["model"]["version"] for _, _, reply in replies} == {"1", "2"}
    for which, _, reply in replies:
        served = probabilities_of(reply, 10)
        wanted = expected[reply["model"]["version"]][which]
        assert reply["predictions"][0]["index"] == wanted.top1
        assert max(abs(a - b) for a, b in zip(served, wanted.probabilities, strict=True)) <= TOLERANCE
