"""The retrain job: fine-tune from the champion, compare with it, publish, and promote when the gate says so.

Safe to kill at any point: a version appears in one rename, the champion changes in another, and all that a killed job
leaves is a run folder and an invisible staging folder that the next one clears away.
"""

from __future__ import annotations

import fcntl
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bundle.errors import BundleConflict
from bundle.manifest import Verdict
from bundle.store import Bundle, Channels, Store

from training.errors import TrainingError
from training.export import CHECKPOINT_FILE, export
from training.gate import VERDICT_FILE, judge
from training.recipe import Recipe, parse_recipe, with_overrides
from training.runs import load_run
from training.train import train
from training.watcher import UNWATCHED, Watcher

LOCK_FILE = ".retrain.lock"
FINE_TUNE_RATE, FINE_TUNE_EPOCHS = 0.1, 0.25
"""A fine-tuning run takes this share of the recipe's learning rate and epochs, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to retrain and on what. `overrides` are `key=value` changes to the champion's recipe."""

    model: str
    store: Store
    runs: Path = Path("runs")
    data: str | None = None
    feedback: str | None = None
    afresh: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: the published version and the gate's verdict on it."""

    bundle: Bundle
    verdict: Verdict


def retrain(job: Job, watcher: Watcher = UNWATCHED) -> Outcome:
    """Run the job.

    Raises `BundleConflict` when another one is at work on the model or the champion changed meanwhile, `GateRefusal`
    when the two cannot be compared fairly, and `TrainingError` or `BundleError` for what is wrong with model or data.
    """
    with sole_job(job.store, job.model):
        job.store.clear_stale(job.model)
        champion = job.store.open(job.model)
        recipe = recipe_for(champion, job)
        warm_start = None if job.afresh else checkpoint_of(champion)
        path = train(recipe, runs=job.runs, watcher=watcher, warm_start=warm_start, parent=champion.manifest.version)
        run = load_run(path)
        exported = export(run, watcher)
        watcher.stage("comparing with the champion")
        judgement = judge(champion, exported, run.data.test, recipe.gate)
        exported.draft.verdict = judgement.verdict
        exported.draft.extra_files[VERDICT_FILE] = judgement.to_json()
        bundle = exported.draft.publish(job.store)
        if judgement.verdict.outcome == "champion":
            promote_over(job.store, champion, bundle)
    return Outcome(bundle, judgement.verdict)


def recipe_for(champion: Bundle, job: Job) -> Recipe:
    """Return the champion's recipe for another run: gentler and shorter when it starts from its weights.

    The files that the champion's own run began from, weights and teachers, are not asked for again, nor is the C++
    compiler that made it faster (`train.compile`).
    """
    recorded: dict[str, Any] | None = champion.manifest.lineage.recipe
    if champion.manifest.lineage.kind != "trained" or recorded is None:
        raise TrainingError(f"{job.model}/{champion.manifest.version} was imported: there is no recipe to train it by")
    recipe = _on_its_own(parse_recipe(recorded), job.afresh)
    changes: list[str] = []
    if not job.afresh:
        changes += [
            f"train.learning_rate={recipe.train.learning_rate * FINE_TUNE_RATE}",
            f"train.epochs={max(1, round(recipe.train.epochs * FINE_TUNE_EPOCHS))}",
        ]
    changes += [f"train.seed={recipe.train.seed + champion.manifest.version}", *job.overrides]
    return with_overrides(recipe, changes, data=job.data, feedback=job.feedback)


def _on_its_own(recipe: Recipe, afresh: bool) -> Recipe:
    """Drop the teachers, the compiler, and the weights where the champion's take their place."""
    model = recipe.model if afresh else recipe.model.model_copy(update={"weights": None})
    train = recipe.train.model_copy(update={"teachers": (), "compile": False})
    return recipe.model_copy(update={"model": model, "train": train})


def checkpoint_of(champion: Bundle) -> dict[str, torch.Tensor]:
    """Read the weights that came with a bundle. Raises `TrainingError` where there are none."""
    if CHECKPOINT_FILE not in champion.manifest.files:
        raise TrainingError(
            f"{champion.manifest.name}/{champion.manifest.version} came without {CHECKPOINT_FILE}; train afresh"
        )
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(champion.read(CHECKPOINT_FILE)), weights_only=True)
    return state


def promote_over(store: Store, champion: Bundle, candidate: Bundle) -> None:
    """Promote a candidate, unless the champion that it was compared with has been replaced meanwhile."""
    name, before = champion.manifest.name, champion.manifest.version

    def change(channels: Channels) -> Channels:
        if channels.champion != before:
            raise BundleConflict(
                f"version {candidate.manifest.version} was compared with {before}, but the champion of {name} is now"
                f" {channels.champion}: it stays a candidate"
            )
        return channels.promoted(candidate.manifest.version)

    store.set_channels(name, change)


@contextmanager
def sole_job(store: Store, name: str) -> Iterator[None]:
    """Hold the model's retraining lock. Raises `BundleConflict` at once where another job holds it."""
    folder = store.root / name
    if not folder.is_dir():
        store.open(name)
    with open(folder / LOCK_FILE, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleConflict(f"another job is retraining {name} in {store.root}") from None
        yield
