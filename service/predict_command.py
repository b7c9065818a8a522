"""`python -m service predict`: classify files and folders through a running service."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.client import Client, ClientError, Outcome

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".mpo"}
COLUMNS = ("file", "label", "probability", "error")
_BAR = 30


def add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `predict`."""
    parser = commands.add_parser("predict", help="classify files through a running service", description=run.__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image file, or folder of images")
    parser.add_argument("--url", default="http://localhost:8000", help="where the service is (%(default)s)")
    parser.add_argument("--model", help="model that answers (the service's default)")
    parser.add_argument("--version", type=int, help="version that answers (the champion)")
    parser.add_argument("--top-k", type=int, default=1, help="classes for each image (%(default)s)")
    parser.add_argument("--threshold", type=float, help="probability below which the answer abstains")
    parser.add_argument("--key", default=os.environ.get("CLEARSIGHT_KEY"), help="API key ($CLEARSIGHT_KEY)")
    parser.add_argument("--deadline", type=float, default=30.0, help="seconds for each image (%(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="requests at once (%(default)s)")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="output (%(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Classify images; a line for each on standard output.

    Exit code 1 when one of them failed, 2 when there are none or the service cannot be asked.
    """
    files = list(images_below(given.paths))
    fault = unusable(given) if files else "no image files there"
    if fault:
        sys.stderr.write(f"clearsight: {fault}\n")
        return 2
    options = {"model": given.model, "version": given.version, "top_k": given.top_k, "threshold": given.threshold}
    with Client(given.url, key=given.key, deadline_s=given.deadline, connections=given.connections) as client:
        outcomes = list(progress(client.predict_many(files, **options), len(files)))
    PRINTERS[given.format](outcomes)
    return int(any(outcome.error for outcome in outcomes))


def unusable(given: argparse.Namespace) -> str | None:
    """Say why the service cannot be asked at all, before every image waits for its own deadline; None when it can."""
    try:
        with Client(given.url, key=given.key, deadline_s=min(3.0, given.deadline)) as client:
            client.get("/models")
    except ClientError as error:
        if error.code == "client.unreachable":
            return f"no service answers at {given.url}; start one with `python -m service serve`, or give its --url"
        return error.detail if error.status in (401, 403) else None
    return None


def images_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among the paths, and the image files below the folders, sorted."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            yield path


def progress(outcomes: Iterable[Outcome], total: int) -> Iterator[Outcome]:
    """Pass outcomes on and draw a bar on standard error while it is a terminal."""
    started = time.monotonic()
    for done, outcome in enumerate(outcomes, 1):
        if sys.stderr.isatty():
            rate = done / max(1e-9, time.monotonic() - started)
            bar = "#" * (_BAR * done // total)
            sys.stderr.write(f"\r[{bar:{_BAR}}] {done}/{total}  {rate:.0f}/s{chr(10) if done == total else ''}")
            sys.stderr.flush()
        yield outcome


def rows_of(outcomes: list[Outcome]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (file, label, probability, error) for each class of each image."""
    for outcome in outcomes:
        name = str(outcome.image)
        if outcome.answer is None:
            yield name, "", "", str(outcome.error)
        elif not outcome.answer.predictions:
            yield name, "(abstained)", "", ""
        else:
            yield from ((name, p.label, f"{p.probability:.6f}", "") for p in outcome.answer.predictions)


def _print_table(outcomes: list[Outcome]) -> None:
    rows = [COLUMNS, *rows_of(outcomes)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _print_csv(outcomes: list[Outcome]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows_of(outcomes))


def _print_json(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.answer is not None:
            fields = outcome.answer.model_dump(mode="json", exclude_none=True)
        else:
            assert outcome.error is not None
            fields = {"error": {"code": outcome.error.code, "detail": outcome.error.detail}}
        sys.stdout.write(json.dumps({"file": str(outcome.image), **fields}) + "\n")


PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json}
