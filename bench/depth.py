"""`python -m bench.depth`: plain against residual networks, and the kinds of shortcut, on a part of CIFAR-10.

After He et al. 2015, https://arxiv.org/abs/1512.03385, figure 6 and table 6, on a budget for a CPU: a tenth of the
training images, at half the resolution, for a few epochs. What is looked for is the order of the networks, not their
published errors. A network whose run is in the folder already is not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.spread import table
from training.live import Live
from training.recipe import Recipe, parse_recipe
from training.runs import LOG_FILE, TEST_FILE
from training.train import train

NETWORKS: dict[str, dict[str, Any]] = {
    "plain-20": {"name": "plain20"},
    "resnet-20": {"name": "resnet20"},
    "resnet-20-projection": {"name": "resnet20", "options": {"shortcut": "projection"}},
    "plain-56": {"name": "plain56"},
    "resnet-56": {"name": "resnet56"},
}
PUBLISHED = {"plain-20": "about 9.5", "resnet-20": "8.75", "plain-56": "about 13", "resnet-56": "6.97"}
"""Test error in %: table 6, and read from figure 6 for the plain networks, after 64,000 steps on all images."""
PANELS = {"plain": ("plain-20", "plain-56"), "residual": ("resnet-20", "resnet-56")}


def main() -> None:
    """Train what is not trained yet, print a table and draw the figure."""
    parser = argparse.ArgumentParser(prog="python -m bench.depth", description=__doc__)
    parser.add_argument("--data", required=True, help="CIFAR-10 as train/<class>/ and test/<class>/")
    parser.add_argument("--runs", type=Path, default=Path("runs/depth"))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the errors by epoch")
    options = parser.parse_args()
    for name in options.networks:
        if finished(options.runs, name) is None:
            with Live() as live:
                train(recipe_of(name, options.data), runs=options.runs, watcher=live)
    runs = {name: run for name in NETWORKS if (run := finished(options.runs, name))}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n{table_of(runs)}")
    if options.figure:
        draw(runs).savefig(options.figure, dpi=110)


def recipe_of(name: str, data: str) -> Recipe:
    """Return the recipe of one network; all of them differ in the network only."""
    return parse_recipe(
        {
            "name": name,
            "data": {"source": "folder", "path": data, "validation_fraction": 0.04, "train_fraction": 0.1},
            "input": {"height": 16, "width": 16, "color": "rgb"},
            "augment": {"crop_padding": 2, "flip": True},
            "model": NETWORKS[name],
            "train": {"epochs": 8, "batch_size": 32, "learning_rate": 0.05, "weight_decay": 1e-4},
        }
    )


def finished(runs: Path, name: str) -> Path | None:
    """Return the last finished run of a network."""
    return max((path.parent for path in runs.glob(f"{name}-[0-9]*-s*/{TEST_FILE}")), default=None)


def history(run: Path) -> list[dict[str, Any]]:
    """Return the log of a run."""
    return [json.loads(line) for line in (run / LOG_FILE).read_text().splitlines()]


def test_of(run: Path) -> dict[str, Any]:
    """Return the held-out figures of a run."""
    return dict(json.loads((run / TEST_FILE).read_text()))


def table_of(runs: dict[str, Path]) -> str:
    """Return a Markdown table of the errors in %, and of what He et al. report."""
    rows = []
    for name, run in runs.items():
        last, test = history(run)[-1], test_of(run)
        low, high = (100 * (1 - bound) for bound in reversed(test["top1_interval"]))
        minutes = sum(line["seconds"] for line in history(run)) / 60
        test_error = f"{100 * (1 - test['top1']):.1f} ({low:.1f} to {high:.1f})"
        train_error = f"{100 * (1 - last['train_accuracy']):.1f}"
        rows.append([name, train_error, test_error, PUBLISHED.get(name, "-"), f"{minutes:.1f}"])
    return table(["network", "training error", "test error", "He et al., test", "minutes"], rows)


def draw(runs: dict[str, Path]) -> Figure:
    """Draw training error (dashed), validation error (solid) and the test error at the end (dot) by epoch."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True):
        for name, color in zip(names, ("tab:olive", "tab:red"), strict=True):
            _draw_run(axes, name, runs[name], color)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel("error, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _draw_run(axes: Axes, name: str, run: Path, color: str) -> None:
    lines = history(run)
    epochs = [line["epoch"] for line in lines]
    for part, style in (("train", "--"), ("validation", "-")):
        errors = [100 * (1 - line[f"{part}_accuracy"]) for line in lines]
        axes.plot(epochs, errors, style, color=color, label=f"{name}, {part}")
    axes.plot(epochs[-1:], [100 * (1 - test_of(run)["top1"])], "o", color=color, label=f"{name}, test")


if __name__ == "__main__":
    main()
