"""The commands of `python -m service` that talk to a service or to its files; `serve` is the parent's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from service.access import SCOPES, new_key


def add_key(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `key`."""
    parser = commands.add_parser("key", help="make an API key", description=make_key.__doc__)
    parser.add_argument("name", help="whose key it is, as logs and limits name it")
    parser.add_argument("--scope", action="append", choices=SCOPES, help="what it allows (predict); repeatable")
    parser.add_argument("--file", type=Path, help="append the hash to this file instead of printing it")
    parser.set_defaults(run=make_key)


def make_key(given: argparse.Namespace) -> int:
    """Make an API key: the key goes to standard output, once; its hash to --file, or to standard error."""
    try:
        secret, line = new_key(given.name, tuple(given.scope or [SCOPES[0]]))
    except ValueError:
        sys.stderr.write(f"clearsight: the name {given.name!r} must be of letters, digits, '_', '.', '-'\n")
        return 2
    if given.file:
        with open(given.file, "a") as sink:
            sink.write(line + "\n")
    else:
        sys.stderr.write(f"add this line to the file that CLEARSIGHT_API_KEYS names:\n{line}\n")
    sys.stdout.write(secret + "\n")
    return 0
