"""`python -m service`: serve bundles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bundle.extras import extra

with extra("service"):
    from service.commands import add_key
    from service.operator_commands import add_drain, add_tune
    from service.predict_command import add_predict
    from service.settings import describe_settings, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code: 0, 2 for a bad setting, 3 for a device that is not there."""
    given = parser().parse_args(arguments)
    return int(given.run(given))


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve image classifiers over HTTP.",
        epilog=_settings_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve", help="serve the bundles of the store until SIGTERM", epilog=_settings_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    serve.set_defaults(run=_serve)
    add_predict(commands)
    add_key(commands)
    add_drain(commands)
    add_tune(commands)
    return top


def _serve(given: argparse.Namespace) -> int:
    del given
    from service.parent import Parent

    return Parent(read_settings()).run()


def _settings_text() -> str:
    lines = ["settings, read from the environment (default in brackets):"]
    for variable, default, description in describe_settings():
        lines.append(f"  {variable:32} {description} [{default}]")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
