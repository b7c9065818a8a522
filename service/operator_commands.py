"""The commands of `python -m service` for whoever operates one: `drain` and `tune`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bundle.errors import ClearsightError

from service.errors import DeviceUnavailable
from service.instance import Instance
from service.settings import EXIT_DEVICE, EXIT_SETTINGS, read_settings


def add_drain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `drain`."""
    parser = commands.add_parser("drain", help="let readiness fall, for a pre-stop hook", description=drain.__doc__)
    parser.add_argument("--pause", type=float, help="seconds to wait afterwards (CLEARSIGHT_DRAIN_PAUSE_S)")
    parser.set_defaults(run=drain)


def add_tune(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `tune`."""
    parser = commands.add_parser("tune", help="measure runners x threads on this machine", description=tune.__doc__)
    parser.add_argument("--output", type=Path, help="the tuning file (CLEARSIGHT_TUNING, else tuning.json)")
    parser.set_defaults(run=tune)


def drain(given: argparse.Namespace) -> int:
    """Let `/readyz` of the service on CLEARSIGHT_PORT answer 503 and wait until load balancers have seen it.

    Requests go on being answered; the SIGTERM that follows does not wait again.
    """
    settings = read_settings()
    found = Instance.of_port(settings.runtime, settings.port)
    if found is None:
        sys.stderr.write(f"clearsight: no service of this user runs on port {settings.port}\n")
        return 1
    found[0].begin_draining()
    time.sleep(settings.drain_pause_s if given.pause is None else max(0.0, given.pause))
    return 0


def tune(given: argparse.Namespace) -> int:
    """Measure every split of the cores into runners and threads with the default model, and keep the best.

    `serve` uses the result where CLEARSIGHT_TUNING names the file and the machine is the same.
    """
    from service.tune import tune as measure

    settings = read_settings()
    path = given.output or settings.tuning or Path("tuning.json")
    try:
        found = measure(settings.model_copy(update={"tuning": path}))
    except DeviceUnavailable as error:
        sys.stderr.write(f"clearsight: {error.detail}\n")
        return EXIT_DEVICE
    except ClearsightError as error:
        sys.stderr.write(f"clearsight: {error.detail}\n")
        return EXIT_SETTINGS
    sys.stdout.write(json.dumps(found, indent=1) + f"\nwritten to {path}; serve with CLEARSIGHT_TUNING={path}\n")
    return 0
