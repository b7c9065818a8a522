"""`python -m training export`: a run becomes a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from bundle import describe
from bundle.store import Store

from training.export import export
from training.live import Live
from training.runs import load_run

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Declare `export`."""
    command = commands.add_parser("export", help="seal a run's best weights into a bundle, prove it and publish it")
    command.add_argument("run_folder", type=Path, metavar="RUN", help="a folder that `train` made")
    command.add_argument("--store", type=Path, default=Path("exported"), help="where bundles lie (exported)")
    command.add_argument("--data", help="where the run's images lie now, if not where they were")
    command.add_argument("--mirror", action="store_true", help="answer for mirror images too: model.mirror")
    command.add_argument("--promote", action="store_true", help="make it champion, also where there is one already")
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    store = Store(options.store)
    with Live() as live:
        exported = export(load_run(options.run_folder, options.data, mirror=options.mirror), live)
    bundle = exported.draft.publish(store)
    name, version = bundle.manifest.name, bundle.manifest.version
    if options.promote or store.channels(name).champion is None:
        store.promote(name, version)
    for line in describe.inspection(bundle):
        print(line)
    if store.channels(name).champion != version:
        print(f"not champion; to make it so: python -m bundle promote {name}/{version}")
    return 0
