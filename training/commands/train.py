"""`train`: a recipe becomes a run folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from training import train as training
from training.errors import RecipeError
from training.live import Live
from training.recipe import load_recipe
from training.runs import TEST_FILE


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's arguments."""
    command = commands.add_parser("train", help="train a recipe into runs/<id>/, or go on with a run that was stopped")
    command.add_argument("recipe", nargs="?", help="a TOML file, or the name of a shipped recipe")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key")
    command.add_argument("--data", help="folder of the data (sets data.path)")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are made (runs)")
    command.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run folder")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, and print the held-out figures and the run folder."""
    if (options.recipe is None) == (options.resume is None):
        raise RecipeError("give a recipe, or --resume RUN")
    with Live() as live:
        if options.resume is not None:
            path = training.resume(options.resume, watcher=live, data=options.data)
        else:
            recipe = load_recipe(options.recipe, options.set, options.data)
            path = training.train(recipe, runs=options.runs, watcher=live)
    if (path / TEST_FILE).exists():
        figures = json.loads((path / TEST_FILE).read_text())
        low, high = figures["top1_interval"]
        print(f"test: top-1 {figures['top1']:.4f} (95 % {low:.4f} to {high:.4f}, n {figures['n']})")
    print(path)
    return 0
