"""`evaluate`: what a run or a bundle is worth on held-out images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from training.answers import Probabilities
from training.checkpoint import write_bytes
from training.data.dataset import Split
from training.errors import DataError
from training.evaluate import Evaluation, score
from training.live import Live
from training.report import write_evaluation
from training.subject import Subject, open_subject


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's arguments."""
    command = commands.add_parser("evaluate", help="accuracy, calibration and errors of a run or a bundle")
    command.add_argument("subject", type=Path, help="a run folder, or a bundle folder such as exported/digits/1")
    command.add_argument("--data", help="folder of the images (else: the data it was trained on)")
    command.add_argument("--split", default="test", choices=("train", "validation", "test", "all"))
    command.add_argument("--variant", default="fp32", help="precision of a bundle's graph (fp32)")
    command.add_argument("--mirror", action="store_true", help="let a run answer for mirror images too: model.mirror")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures and every image's answer")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots and the worst errors")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate, print the figures and write what was asked for."""
    with Live() as live:
        live.stage("opening the data")
        subject = open_subject(options.subject, options.data, options.variant, live, mirror=options.mirror)
        split = _chosen(subject, options.split)
        probabilities = subject.answer(split)
    evaluation = score(probabilities, np.array(split.targets()), subject.labels)
    _show(subject, options.split, evaluation)
    if options.json:
        write_bytes(options.json, json.dumps(answers(subject, split, probabilities, evaluation)).encode())
    if options.html:
        title = f"{subject.name} on {subject.data.name} {options.split}"
        write_evaluation(options.html, title, split, probabilities, subject.labels, subject.preprocessing)
    return 0


def answers(subject: Subject, split: Split, probabilities: Probabilities, evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures and, for every image, its origin, content hash, class, top-1 and probabilities."""
    images = [
        {
            "origin": split.origin(index),
            "digest": split.digest(index),
            "target": split.target(index),
            "top1": int(row.argmax()),
            "probabilities": [float(value) for value in row],
        }
        for index, row in enumerate(probabilities)
    ]
    return {"model": subject.name, "labels": subject.labels, "evaluation": evaluation.to_json(), "images": images}


def _chosen(subject: Subject, part: str) -> Split:
    data = subject.data
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    split = Split([i for p in parts.values() for i in p.items]) if part == "all" else parts[part]
    if not len(split):
        raise DataError(f"the {part} split is empty; choose another with --split (all takes every image)")
    return split


def _show(subject: Subject, part: str, found: Evaluation) -> None:
    print(f"{subject.name} on {subject.data.name} {part}, {found.n} images")
    print(f"  top-1 {found.top1:.4f}  (95 % {found.top1_interval[0]:.4f} to {found.top1_interval[1]:.4f})")
    print(f"  top-5 {found.top5:.4f}  (95 % {found.top5_interval[0]:.4f} to {found.top5_interval[1]:.4f})")
    auc = "not defined" if found.roc_auc is None else f"{found.roc_auc:.4f}"
    print(f"  loss {found.loss:.4f}  calibration error {found.ece:.4f}  ROC AUC {auc}")
    width = max(map(len, found.per_class))
    print(f"  {'class':{width}}  images  precision  recall  (95 %)                F1")
    for label, c in found.per_class.items():
        recall = f"{c.recall:6.4f}  ({c.recall_interval[0]:.4f} to {c.recall_interval[1]:.4f})"
        print(f"  {label:{width}}  {c.support:6}  {c.precision:9.4f}  {recall}  {c.f1:6.4f}")
    for warning in found.warnings:
        print(f"  warning: {warning}")
