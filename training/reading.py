"""The curves of a run, read aloud: what they say and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.recipe import Model, Recipe

OVERFIT_RISE = 1.05
"""Validation loss this many times its minimum, while the training loss went on falling, is over-fitting."""
JUMP = 1.3
"""A training loss this many times the one before it, or the lowest at the end, means that the steps are too long."""
SMALL_GAP = 0.03
LOW_ACCURACY = 0.8
PERFECT = 0.999
EARLY = 0.2
"""A perfect validation accuracy within this share of the epochs is too good to be true."""

Line = dict[str, Any]


def read_curves(history: Sequence[Line]) -> list[str]:
    """Return at least one sentence about the log of a run; the gravest first."""
    if len(history) < 3:
        return ["too short to read: fewer than three epochs"]
    rules = (_perfect, _rate_too_high, _overfitting, _too_small, _still_improving)
    return [said for rule in rules if (said := rule(history))] or [_settled(history)]


def compare_losses(recipe: Recipe) -> list[str]:
    """Return a sentence where the training loss holds more than the cross-entropy that validation is judged by."""
    train, augment = recipe.train, recipe.augment
    more = {
        "the distance to the teachers' answers": train.teachers,
        "label smoothing": train.label_smoothing,
        "mixed images": augment.mixup or augment.cutmix,
        "weights of the classes": train.balance == "loss",
    }
    found = [what for what, there in more.items() if there]
    return [f"the training loss includes {' and '.join(found)}: do not compare it with validation's"] if found else []


def compare_models(trained: Model, judged: Model) -> list[str]:
    """Return a sentence where the curves are those of another network than the figures below them."""
    if trained.mirror == judged.mirror:
        return []
    return ["the curves are of the image alone, the figures of answers for its mirror image as well (model.mirror)"]


def _perfect(history: Sequence[Line]) -> str | None:
    first = next((e["epoch"] for e in history if e["validation_accuracy"] >= PERFECT), None)
    if first is None or first > max(1, EARLY * len(history)):
        return None
    return (
        f"suspiciously perfect: validation accuracy {PERFECT:.1%} already in epoch {first}; look for leakage"
        " (the same images in training and validation, or a label that can be read off the picture)"
    )


def _rate_too_high(history: Sequence[Line]) -> str | None:
    """A loss that jumps again and again, or that ends far above where it has been; one that recovers is none."""
    losses = [line["train_loss"] for line in history]
    jumps = [i for i in range(1, len(losses)) if not losses[i] <= JUMP * losses[i - 1]]
    if not losses[-1] <= JUMP * min(losses):
        first = next(i for i in range(1, len(losses)) if not losses[i] <= JUMP * min(losses[:i]))
        said = f"has not come down again since it rose in epoch {history[first]['epoch']}"
    elif len(jumps) >= max(1, 0.1 * len(history)):
        said = f"jumped up in epoch {', '.join(str(history[i]['epoch']) for i in jumps)}"
    else:
        return None
    return f"learning rate too high: the training loss {said}; halve it"


def _overfitting(history: Sequence[Line]) -> str | None:
    lowest = min(range(len(history)), key=lambda i: history[i]["validation_loss"])
    least, last = history[lowest], history[-1]
    rose = last["validation_loss"] > OVERFIT_RISE * least["validation_loss"]
    if lowest == len(history) - 1 or not rose or last["train_loss"] >= least["train_loss"]:
        return None
    return (
        f"over-fitting from epoch {least['epoch'] + 1}: the validation loss rose from {least['validation_loss']:.3f} to"
        f" {last['validation_loss']:.3f} while the training loss went on falling; more data, more augmentation, more"
        " weight decay, or fewer epochs"
    )


def _too_small(history: Sequence[Line]) -> str | None:
    last, before = history[-1], history[int(len(history) * 0.7)]
    gap = last["train_accuracy"] - last["validation_accuracy"]
    moving = last["train_loss"] < 0.97 * before["train_loss"]
    if last["train_accuracy"] >= LOW_ACCURACY or gap > SMALL_GAP or moving or _rate_too_high(history):
        return None
    return (
        f"capacity too small: training accuracy has settled at {last['train_accuracy']:.1%}, no better than validation;"
        " a larger network, larger images or less augmentation"
    )


def _still_improving(history: Sequence[Line]) -> str | None:
    before = min(e["validation_loss"] for e in history[: max(1, int(len(history) * 0.8))])
    best = max(range(len(history)), key=lambda i: history[i]["validation_accuracy"])
    if best < len(history) * 0.9 - 1 or history[-1]["validation_loss"] > 0.98 * before:
        return None
    return (
        f"still improving at the end: validation loss {before:.3f} before the last fifth of the epochs,"
        f" {history[-1]['validation_loss']:.3f} after it; more epochs may help"
    )


def _settled(history: Sequence[Line]) -> str:
    best = max(history, key=lambda e: e["validation_accuracy"])
    return f"settled: the best validation accuracy, {best['validation_accuracy']:.1%}, came in epoch {best['epoch']}"
