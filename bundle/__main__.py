"""`python -m bundle`: look after the bundles of a store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle import commands, import_command
from bundle.errors import ClearsightError

NAMED = "NAME[/VERSION]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns 0, or 1 after one sentence on standard error that says what is wrong."""
    options = parser().parse_args(arguments)
    try:
        for line in options.run(options):
            print(line)
    except ClearsightError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        print(f"system.refused: {error.strerror}: {error.filename or options.store}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(prog="python -m bundle", description="Look after exported classifiers.")
    top.add_argument("--store", type=Path, default=Path("exported"), help="folder of bundles (default: exported)")
    add = top.add_subparsers(required=True, metavar="COMMAND").add_parser
    command = add("list", help="list models, versions and channels")
    command.set_defaults(run=commands.list_)
    command = add("inspect", help="show what a bundle holds")
    command.add_argument("bundle", metavar=NAMED, help="the champion without VERSION")
    command.set_defaults(run=commands.inspect)
    command = add("verify", help="check files, graphs and golden images (of every bundle without NAME)")
    command.add_argument("bundles", nargs="*", metavar=NAMED)
    command.set_defaults(run=commands.verify)
    command = add("promote", help="verify a version and make it champion, canary or shadow")
    command.add_argument("bundle", metavar="NAME/VERSION")
    command.add_argument("--channel", choices=("champion", "canary", "shadow"), default="champion")
    command.add_argument("--weight", type=float, help="share of the requests that the canary answers, such as 0.05")
    command.set_defaults(run=commands.promote)
    command = add("withdraw", help="let a model have no canary or no shadow")
    command.add_argument("name", metavar="NAME")
    command.add_argument("channel", choices=("canary", "shadow"))
    command.set_defaults(run=commands.withdraw)
    command = add("rollback", help="make the champion before the present one champion again")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=commands.rollback)
    command = add("diff", help="show what changed between two bundles, and the images they disagree on")
    command.add_argument("first", metavar=NAMED)
    command.add_argument("second", metavar=NAMED)
    command.add_argument("--images", type=Path, help="folder of images to compare on (else: both bundles' golden)")
    command.add_argument("--html", metavar="FILE", help="also write a page with thumbnails")
    command.set_defaults(run=commands.compare)
    command = add("gc", help="delete versions that nothing needs")
    command.add_argument("name", nargs="?", metavar="NAME", help="only this model")
    command.add_argument("--keep", type=_count, default=3, help="newest versions to keep in any case (3)")
    command.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    command.set_defaults(run=commands.collect)
    command = add("import", help="make a bundle of an ONNX classifier made elsewhere")
    import_command.add_options(command)
    command.set_defaults(run=import_command.run)
    command = add("schema", help="show the JSON Schema of bundle.json")
    command.set_defaults(run=commands.schema)
    return top


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of versions")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
