"""`report.html` of a run: one file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bundle.manifest import Preprocessing
from bundle.preprocess import preprocess
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from training.checkpoint import write_bytes
from training.curves import QUANTITIES, draw_curves
from training.data.dataset import Split
from training.evaluate import Floats, score
from training.plots import as_svg, draw_confusion, draw_reliability
from training.reading import compare_losses, compare_models, read_curves
from training.recipe import Model, Recipe, parse_recipe
from training.runs import LOG_FILE, read_facts

REPORT_FILE = "report.html"
WORST = 24
THUMBNAIL_PIXELS = 96
LOCAL = ("data.path", "data.feedback")
"""Folders of one machine mean nothing to those who read the page elsewhere."""


def write_report(path: Path, test: Split | None, probabilities: Floats | None) -> Path:
    """Write `report.html` into a run folder and return it; see `report_page`."""
    write_bytes(path / REPORT_FILE, report_page("report.html", path, test, probabilities).encode())
    return path / REPORT_FILE


def report_page(
    template: str,
    path: Path,
    test: Split | None,
    probabilities: Floats | None,
    *,
    model: Model | None = None,
    **more: Any,
) -> str:
    """Return the page of a run. `probabilities` [n, classes] are the model's for `test`; without them the page holds
    the curves only. `model` is what gave them, where that is not the recipe's. `more` is what the template asks for
    besides.
    """
    facts = read_facts(path)
    recipe, labels = parse_recipe(facts["recipe"]), facts["labels"]
    model = model or recipe.model
    history = [json.loads(line) for line in (path / LOG_FILE).read_text().splitlines()]
    shown: dict[str, Any] = {"evaluation": None, "errors": []}
    if test is not None and probabilities is not None:
        shown = _judged(test, probabilities, labels, recipe.input.preprocessing())
    return render(
        template,
        title=f"{recipe.name}: {model.title}",
        subtitle=f"{path.name} · {len(history)} epochs, {sum(line['seconds'] for line in history) / 60:.1f} minutes",
        curves={quantity: as_svg(draw_curves(history, quantity)) for quantity in QUANTITIES},
        readings=read_curves(history) + compare_losses(recipe) + compare_models(recipe.model, model),
        command=_commands(path.name, recipe, model),
        facts=_flat({**facts["data"], **facts["environment"], "started": facts["started"]}),
        recipe={key: value for key, value in _flat(recipe.portable()).items() if key not in LOCAL},
        **shown,
        **more,
    )


def _commands(run: str, recipe: Recipe, model: Model) -> str:
    train = f"python -m training train {run}/run.json" + (" --data FOLDER" if recipe.data.path else "")
    return train if model.mirror == recipe.model.mirror else f"{train}\npython -m training export RUN --mirror"


def write_evaluation(
    path: Path, title: str, split: Split, probabilities: Floats, labels: Sequence[str], preprocessing: Preprocessing
) -> None:
    """Write the page of one evaluation, of a run or of a bundle, without curves and recipe."""
    shown = _judged(split, probabilities, labels, preprocessing)
    nothing: dict[str, Any] = {"curves": None, "readings": [], "command": None, "facts": {}, "recipe": {}}
    subtitle = f"{len(split)} images through the preprocessing that production uses"
    write_bytes(path, render("report.html", title=title, subtitle=subtitle, **nothing, **shown).encode())


def _judged(split: Split, probabilities: Floats, labels: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
    targets = np.array(split.targets())
    evaluation = score(probabilities, targets, labels)
    return {
        "evaluation": evaluation,
        "confusion": as_svg(draw_confusion(evaluation, labels)),
        "reliability": as_svg(draw_reliability(probabilities, targets)),
        "errors": worst_errors(split, probabilities, labels, preprocessing),
    }


def render(template: str, **values: Any) -> str:
    """Fill a template that lies beside this module; everything put in is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    return (
        Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(template).render(**values)
    )


def worst_errors(
    split: Split, probabilities: Floats, labels: Sequence[str], preprocessing: Preprocessing
) -> list[dict[str, Any]]:
    """Return the wrong answers of most confidence, with thumbnails of what the network saw."""
    answered, targets = probabilities.argmax(axis=1), np.array(split.targets())
    wrong = np.flatnonzero(answered != targets)
    worst = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:WORST]
    return [
        {
            "thumbnail": thumbnail(preprocess(split.encoded(index), preprocessing).pixels),
            "true": labels[targets[index]],
            "answered": labels[answered[index]],
            "confidence": float(probabilities[index].max()),
            "origin": "/".join(Path(split.origin(index)).parts[-2:]),
        }
        for index in map(int, worst)
    ]


def thumbnail(pixels: np.ndarray) -> str:
    """Return uint8 [h, w, c] as a small PNG in a `data:` address."""
    image = Image.fromarray(pixels.squeeze() if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
