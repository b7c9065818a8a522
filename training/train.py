"""A training run from recipe to run folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from training.answers import Probabilities, of_network
from training.checkpoint import load, write_json
from training.data import Dataset, open_dataset
from training.data.augment import Normalise
from training.data.feed import Feed, MemoryFeed, open_feed, require_readable
from training.data.tensors import channel_statistics
from training.distributed import join_world
from training.errors import DataError, RunError
from training.evaluate import score
from training.loop import Loop
from training.pretrained import transfer
from training.recipe import Recipe, parse_recipe
from training.report import write_report
from training.runs import (
    BEST_FILE,
    RUN_FILE,
    TEST_FILE,
    environment,
    load_weights,
    make_model,
    new_run_folder,
    read_facts,
)
from training.teacher import find_teachers, prepare_lesson
from training.watcher import UNWATCHED, Watcher


def train(
    recipe: Recipe,
    *,
    runs: Path | str = "runs",
    watcher: Watcher = UNWATCHED,
    warm_start: Mapping[str, Tensor] | None = None,
    parent: int | None = None,
) -> Path:
    """Train a recipe and return its run folder.

    `warm_start` is a state dict to begin from and `parent` the bundle version it came with. Raises a `TrainingError`
    for data or weights that do not fit, before any epoch, and when the loss stops being a number.
    """
    world = join_world()
    watcher = watcher if world.writes else UNWATCHED
    watcher.stage("opening the data")
    dataset = open_dataset(recipe.name, recipe.data)
    feeds = _feeds(dataset, recipe)
    _require_readable(dataset, feeds, recipe)
    mean, std = channel_statistics(pixels for pixels, _ in feeds["train"].ordered())
    facts = _facts(recipe, dataset, mean, std, parent)
    if recipe.model.weights is not None:
        fresh = make_model(recipe, len(dataset.labels))
        taken = transfer(fresh, recipe.model.name, recipe.model.weights)
        watcher.stage(taken.sentence())
        facts["transfer"] = taken.to_json()
        warm_start = fresh.state_dict()
    teachers = find_teachers(recipe, dataset)
    path = new_run_folder(Path(runs), recipe.name, recipe.train.seed) if world.writes else None
    path = world.same_path(path)
    if world.writes:
        write_json(path / RUN_FILE, facts)
    loop = Loop(path, recipe, feeds, len(dataset.labels), Normalise(mean, std), world, warm_start)
    if teachers:
        loop.stepper.lesson = prepare_lesson(teachers, loop.feed, recipe, world, watcher)
    return _finish(loop, dataset, watcher)


def resume(
    path: Path | str,
    *,
    watcher: Watcher = UNWATCHED,
    data: str | None = None,
) -> Path:
    """Go on with a run that was stopped, from its last checkpoint; a finished run is returned as it is.

    Raises `RunError` when the data is no longer what the run was started with.
    """
    path, world = Path(path), join_world()
    watcher = watcher if world.writes else UNWATCHED
    watcher.stage("opening the data")
    facts = read_facts(path)
    values = facts["recipe"]
    if data is not None:
        values["data"]["path"] = str(Path(data).resolve())
    recipe = parse_recipe(values)
    dataset = open_dataset(recipe.name, recipe.data)
    if dataset.fingerprint != facts["data"]["fingerprint"]:
        raise RunError(f"{path}: the data has changed since the run began; start a new run")
    normalise = Normalise(tuple(facts["mean"]), tuple(facts["std"]))
    loop = Loop(path, recipe, _feeds(dataset, recipe), len(dataset.labels), normalise, world)
    teachers = find_teachers(recipe, dataset)
    if teachers and not loop.finished():
        loop.stepper.lesson = prepare_lesson(teachers, loop.feed, recipe, world, watcher)
    return _finish(loop, dataset, watcher)


def _finish(loop: Loop, dataset: Dataset, watcher: Watcher) -> Path:
    """Run the epochs that are left, then read the test split, once, and write the report."""
    loop.run(watcher)
    if loop.world.writes and not (loop.path / TEST_FILE).exists():
        probabilities = _answers(loop, dataset, watcher) if len(dataset.test) else None
        write_report(loop.path, dataset.test, probabilities)
        if probabilities is not None:
            figures = score(probabilities, np.array(dataset.test.targets()), dataset.labels)
            write_json(loop.path / TEST_FILE, figures.to_json())
    loop.world.wait()
    return loop.path


def _answers(loop: Loop, dataset: Dataset, watcher: Watcher) -> Probabilities:
    best = make_model(loop.recipe, len(dataset.labels))
    load_weights(best, load(loop.path / BEST_FILE), loop.path / BEST_FILE)
    return of_network(best, dataset.test, loop.recipe.input.preprocessing(), loop.normalise, watcher)


def _feeds(dataset: Dataset, recipe: Recipe) -> dict[str, Feed]:
    parts = {"train": dataset.train, "validation": dataset.validation}
    for name, split in parts.items():
        if not len(split):
            sizes = f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test"
            raise DataError(f"the {name} split is empty ({sizes}); change data.validation_fraction or add images")
    return {name: open_feed(split, recipe) for name, split in parts.items()}


def _require_readable(dataset: Dataset, feeds: dict[str, Feed], recipe: Recipe) -> None:
    """Find images that cannot be read before the first epoch, where nothing else reads them before it."""
    unread = [dataset.test] if isinstance(feeds["validation"], MemoryFeed) else [dataset.validation, dataset.test]
    for split in [] if recipe.data.skip_unreadable else unread:
        require_readable(split, recipe.input.preprocessing())


def _facts(
    recipe: Recipe, dataset: Dataset, mean: tuple[float, ...], std: tuple[float, ...], parent: int | None
) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "labels": list(dataset.labels),
        "mean": mean,
        "std": std,
        "parent": parent,
        "data": {
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
        },
        "environment": environment(),
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
