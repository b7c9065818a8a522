"""`find`: a learning rate, or a batch size, for a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.finders import find_batch, find_rate, plot_rates
from training.recipe import load_recipe


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's arguments."""
    command = commands.add_parser("find", help="try learning rates or batch sizes for a recipe")
    command.add_argument("what", choices=("rate", "batch"))
    command.add_argument("recipe")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key")
    command.add_argument("--data", help="folder of the data")
    command.add_argument("--steps", type=int, default=100, help="steps of the learning rate trial (100)")
    command.add_argument("--plot", type=Path, default=Path("rates.png"), help="where the loss is drawn (rates.png)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Try, and print what to set."""
    recipe = load_recipe(options.recipe, options.set, options.data)
    if options.what == "batch":
        trial = find_batch(
            recipe, tried=lambda size, speed: print(f"batch {size:5}: {speed:8.0f} images/s", flush=True)
        )
        print(f"--set train.batch_size={trial.suggested}")
        return 0
    rates = find_rate(recipe, max(10, options.steps))
    plot_rates(rates, options.plot)
    print(f"{options.plot}: loss over learning rate")
    print(f"--set train.learning_rate={rates.suggested:.2g}")
    return 0
