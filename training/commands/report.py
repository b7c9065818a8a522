"""`report`: write a run's report.html again, also while it trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.report import write_report
from training.runs import TEST_FILE
from training.subject import open_subject


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's arguments."""
    command = commands.add_parser("report", help="write report.html of a run")
    command.add_argument("run_folder", type=Path, metavar="RUN")
    command.add_argument("--data", help="folder of the images, where they have moved")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the page; the test images appear in it once the run has read them."""
    path: Path = options.run_folder
    if (path / TEST_FILE).exists():
        subject = open_subject(path, options.data)
        print(write_report(path, subject.data.test, subject.answer(subject.data.test)))
    else:
        print(write_report(path, None, None))
    return 0
