"""A run's folder: configuration, log, curves and checkpoints, and how to read one back.

`run.json` configuration and data facts · `log.jsonl` one line an epoch · `best.pt` weights of the best epoch by
validation accuracy · `last.pt` everything a killed run needs to go on · `test.json` the held-out figures ·
`curves.png`.
"""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bundle.manifest import Preprocessing

from training.checkpoint import load
from training.data import Dataset, open_dataset
from training.errors import RecipeError, RunError
from training.models import Classifier, build
from training.recipe import Data, Recipe, parse_recipe

RUN_FILE, LOG_FILE, BEST_FILE, LAST_FILE, TEST_FILE = "run.json", "log.jsonl", "best.pt", "last.pt", "test.json"
LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "scikit-learn")


@dataclass
class TrainedRun:
    """A finished or running training, read from its folder: the best weights so far, ready to evaluate or export."""

    path: Path
    recipe: Recipe
    model: Classifier
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Per channel, on the 0..1 scale: the network takes `(pixel / 255 - mean) / std`."""
    fingerprint: str
    parent: int | None
    """The bundle version it was fine-tuned from."""
    facts: dict[str, Any]
    """All of `run.json`."""

    @cached_property
    def data(self) -> Dataset:
        """The data it was trained on, opened again. Raises `RunError` when that data has changed since."""
        dataset = open_dataset(self.recipe.name, self.recipe.data)
        if dataset.fingerprint != self.fingerprint:
            raise RunError(
                f"the data at {self.recipe.data.path or self.recipe.data.source} has changed since the run:"
                f" fingerprint {dataset.fingerprint[:12]}…, trained on {self.fingerprint[:12]}…"
            )
        return dataset


def make_model(recipe: Recipe, classes: int) -> Classifier:
    """Build the recipe's network for `classes` labels, with fresh weights from the global generator."""
    size = (recipe.input.height, recipe.input.width)
    model = build(
        recipe.model.name, classes=classes, channels=recipe.input.channels, input_size=size, **recipe.model.options
    )
    if recipe.model.mirror and not model.cam:
        raise RecipeError(
            f"model.mirror: {recipe.model.name} cannot answer for mirror images too: its head is not one linear layer"
            " over the average of a feature map; leave it out"
        )
    model.mirror = recipe.model.mirror
    return model


def load_run(path: Path | str, data: Path | str | None = None, *, mirror: bool = False) -> TrainedRun:
    """Read a run folder with its best weights, in evaluation mode; `data` names where its images lie now.

    `mirror` sets the recipe's `model.mirror`, which learns nothing and so can be chosen after training.

    Raises `RunError` when the folder, its `run.json` or its weights are missing or do not fit, and `RecipeError` where
    the network cannot answer for mirror images.
    """
    path = Path(path)
    facts = read_facts(path)
    recipe = parse_recipe(facts["recipe"])
    if data is not None:
        moved = Data(**(recipe.data.model_dump() | {"path": str(Path(data).resolve())}))
        recipe = recipe.model_copy(update={"data": moved})
    if mirror:
        recipe = recipe.model_copy(update={"model": recipe.model.mirrored()})
    model = make_model(recipe, len(facts["labels"]))
    load_weights(model, load(path / BEST_FILE), path / BEST_FILE)
    return TrainedRun(
        path=path,
        recipe=recipe,
        model=model.eval(),
        labels=tuple(facts["labels"]),
        preprocessing=recipe.input.preprocessing(),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        fingerprint=facts["data"]["fingerprint"],
        parent=facts["parent"],
        facts=facts,
    )


def read_facts(path: Path) -> dict[str, Any]:
    """Read `run.json` of a run folder. Raises `RunError`."""
    try:
        facts = json.loads((path / RUN_FILE).read_text())
    except FileNotFoundError:
        raise RunError(f"{path} is not a run: it has no {RUN_FILE}") from None
    except ValueError as error:
        raise RunError(f"{path / RUN_FILE} is not JSON: {error}") from None
    if missing := sorted({"recipe", "labels", "mean", "std", "data", "parent"} - facts.keys()):
        raise RunError(f"{path / RUN_FILE} lacks {missing[0]}")
    return dict(facts)


def load_weights(model: torch.nn.Module, state: dict[str, Any], origin: Path) -> None:
    """Load a state dict strictly. Raises `RunError` naming the first tensor that does not fit."""
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is unexpected" for name in state if name not in own]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if wrong:
        raise RunError(f"{origin} does not fit the network: {wrong[0]} ({len(wrong)} differences)")
    model.load_state_dict(state)


def environment() -> dict[str, Any]:
    """Describe what a run was made with: libraries, Python, processor, threads and the commit of the code."""
    return {
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "code": code_commit(),
    }


def code_commit() -> str | None:
    """Return the commit of this checkout, with `+changes` where files differ from it; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+changes" if changes.strip() else commit


def new_run_folder(root: Path, name: str, seed: int) -> Path:
    """Create `<root>/<name>-<UTC time>-s<seed>`, with a number behind it where that exists."""
    stamp = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-s{seed}"
    for attempt in range(1, 1000):
        path = root / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise RunError(f"{root} holds a thousand runs called {stamp}")
