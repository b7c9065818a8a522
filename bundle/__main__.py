"""`python -m bundle`: look after the bundles of a store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bundle import describe, import_command
from bundle.errors import BundleError, ClearsightError
from bundle.store import Bundle, Store
from bundle.verify import verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns 0, or 1 after printing what is wrong with a bundle."""
    options = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    try:
        run(options)
    except ClearsightError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(prog="python -m bundle", description="Look after exported classifiers.")
    top.add_argument("--store", type=Path, default=Path("exported"), help="folder of bundles (default: exported)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="list models, versions and channels")
    command.set_defaults(run=_list)
    command = commands.add_parser("inspect", help="show what a bundle holds")
    command.add_argument("bundle", metavar="NAME[/VERSION]", help="the champion without VERSION")
    command.set_defaults(run=_inspect)
    command = commands.add_parser("verify", help="check files, graphs and golden images (all bundles without NAME)")
    command.add_argument("bundles", nargs="*", metavar="NAME[/VERSION]")
    command.set_defaults(run=_verify)
    command = commands.add_parser("import", help="make a bundle of an ONNX classifier made elsewhere")
    import_command.add_options(command)
    command.set_defaults(run=_import)
    return top


def open_named(store: Store, text: str) -> Bundle:
    """Open `name` (its champion) or `name/version`. Raises `BundleMissing` naming what there is."""
    name, _, version = text.partition("/")
    if version and not version.isdecimal():
        raise BundleError(f"{text!r} should be NAME or NAME/VERSION, where VERSION is a whole number")
    return store.open(name, int(version) if version else None)


def _list(options: argparse.Namespace) -> None:
    lines = list(describe.listing(Store(options.store)))
    print("\n".join(lines) or f"no bundles in {options.store}")


def _inspect(options: argparse.Namespace) -> None:
    for line in describe.inspection(open_named(Store(options.store), options.bundle)):
        print(line)


def _verify(options: argparse.Namespace) -> None:
    store = Store(options.store)
    if options.bundles:
        chosen = [open_named(store, text) for text in options.bundles]
    else:
        chosen = [store.open(name, version) for name in store.names() for version in store.versions(name)]
    if not chosen:
        raise BundleError(f"no bundles in {options.store}")
    for bundle in chosen:
        for replay in verify(store, bundle):
            name = f"{bundle.manifest.name}/{bundle.manifest.version}"
            print(
                f"{name} {replay.variant}: {replay.images} golden images within {replay.difference:.2g}"
                f" (tolerance {replay.tolerance:g})"
            )


def _import(options: argparse.Namespace) -> None:
    for line in import_command.run(options):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
