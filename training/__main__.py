"""The command line: `python -m training <command>`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bundle.errors import ClearsightError
from bundle.extras import extra

with extra("training"):
    from training.commands import data_report, describe, evaluate, export, find, report, retrain, train
    from training.memory import keep_freed_memory

COMMANDS = (train, evaluate, export, retrain, describe, data_report, find, report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 with one sentence on standard error when it could not be done."""
    options = parser().parse_args(arguments)
    keep_freed_memory()
    try:
        return int(options.run(options) or 0)
    except ClearsightError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; go on with --resume", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Build the argument parser of all commands."""
    built = argparse.ArgumentParser(prog="python -m training", description="Train and evaluate image classifiers.")
    commands = built.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return built


if __name__ == "__main__":
    raise SystemExit(main())
