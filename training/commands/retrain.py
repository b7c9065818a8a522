"""`retrain`: the champion learns on, and the gate decides whether the result takes its place."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bundle.errors import BundleConflict
from bundle.store import Store

from training.errors import GateRefusal
from training.live import Live
from training.retrain import Job, retrain

CHAMPION, CANDIDATE, REFUSED, BUSY = 0, 3, 4, 5
"""Exit codes for schedulers; 2 is what any failed command gives, 130 an interrupted one."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "retrain",
        help="fine-tune a model's champion, compare, publish, promote",
        epilog="Exit codes: 0 new champion, 2 failed, 3 published as a candidate only, 4 no fair comparison is"
        " possible, 5 another job is at work or changed the champion.",
    )
    command.add_argument("--model", required=True, help="which model of the store")
    command.add_argument("--store", type=Path, default=Path("exported"), help="where bundles lie (exported)")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders are made (runs)")
    command.add_argument("--data", help="folder of the training data, where the recipe needs one")
    command.add_argument("--feedback", help="folder of newly labelled images, one folder per class")
    command.add_argument("--afresh", action="store_true", help="train from scratch by the champion's recipe")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Retrain and print the verdict."""
    job = Job(
        model=options.model,
        store=Store(options.store),
        runs=options.runs,
        data=options.data,
        feedback=options.feedback,
        afresh=options.afresh,
        overrides=tuple(options.set),
    )
    try:
        with Live() as live:
            outcome = retrain(job, live)
    except (GateRefusal, BundleConflict) as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return REFUSED if isinstance(error, GateRefusal) else BUSY
    print(f"{options.model}/{outcome.bundle.manifest.version}: {outcome.verdict.reason}")
    return CHAMPION if outcome.verdict.outcome == "champion" else CANDIDATE
