"""`data-report`: what is in a folder of images, and what is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from bundle.errors import ImageError
from bundle.preprocess import preprocess

from training.checkpoint import write_bytes, write_json
from training.data import Dataset, open_dataset
from training.data_report import DataReport, examine
from training.recipe import Data, Input
from training.report import render, thumbnail

THUMBNAILS = 24
_SQUARE = Input(height=96, width=96, color="rgb").preprocessing()


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's arguments."""
    command = commands.add_parser("data-report", help="counts, duplicates, leaks and odd files of a folder of images")
    command.add_argument("folder", type=Path)
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails of every class")
    command.add_argument("--json", type=Path, metavar="FILE", help="write everything found")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examine the folder, print the findings and write what was asked for."""
    dataset = open_dataset(options.folder.name, Data(source="folder", path=str(options.folder)))
    report = examine(dataset)
    print(f"{report.images} images, {len(report.classes)} classes, imbalance {report.imbalance:.2f}")
    for label, counts in report.classes.items():
        print(f"  {label}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))
    for sentence in sentences(report):
        print(sentence)
    for title, lines in findings(report):
        for line in lines[:20]:
            print(f"{title}: {line}")
    if options.json:
        write_json(options.json, report.to_json())
    if options.html:
        page = render(
            "data_report.html",
            name=dataset.name,
            report=report,
            sentences=sentences(report),
            findings=findings(report),
            thumbnails=_thumbnails(dataset),
        )
        write_bytes(options.html, page.encode())
    return 0


def sentences(report: DataReport) -> list[str]:
    """Say what ought to be mended before training."""
    counted = (
        (report.leaks, "group(s) of duplicates lie in several splits: the test would be too kind"),
        (report.conflicts, "group(s) of equal images have different labels"),
        (report.unreadable, "image(s) cannot be read"),
        (report.odd, "file(s) have an odd format"),
        (report.brightness_outliers, "image(s) are far darker or brighter than the rest"),
    )
    said = [f"{len(found)} {what}" for found, what in counted if found]
    if report.imbalance > 3:
        said.append(f"classes differ {report.imbalance:.1f} times in size: consider train.balance")
    return said + report.notes


def findings(report: DataReport) -> list[tuple[str, list[str]]]:
    """Return every finding as titled lines."""
    return [
        ("leak", [" = ".join(group) for group in report.leaks]),
        ("label conflict", [" = ".join(group) for group in report.conflicts]),
        ("unreadable", [f"{origin}: {why}" for origin, why in report.unreadable.items()]),
        ("odd", report.odd),
        ("exact duplicates", [" = ".join(group) for group in report.exact_duplicates]),
        ("near duplicates", [" ~ ".join(group) for group in report.near_duplicates]),
        ("brightness outlier", [f"{origin}: {value}" for origin, value in report.brightness_outliers.items()]),
    ]


def _thumbnails(dataset: Dataset) -> dict[str, list[str]]:
    shown: dict[str, list[str]] = {label: [] for label in dataset.labels}
    for item in (*dataset.train.items, *dataset.validation.items, *dataset.test.items):
        images = shown[dataset.labels[item.target]]
        if len(images) < THUMBNAILS:
            try:
                images.append(thumbnail(preprocess(item.read(), _SQUARE).pixels))
            except ImageError:
                continue  # the report names it
    return shown
