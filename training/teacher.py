"""Trained networks that teach another: knowledge distillation, Hinton et al. 2015, https://arxiv.org/abs/1503.02531.

The teachers answer every training image once, before the first epoch, as it is and mirrored where the recipe mirrors;
the student learns from the mean. That costs one pass of each teacher instead of one in every epoch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.augment import Normalise
from training.data.dataset import Dataset
from training.data.feed import Feed
from training.device import pick_device
from training.distributed import World
from training.errors import RunError
from training.recipe import Data, Recipe, Train
from training.runs import TrainedRun, load_run
from training.watcher import Watcher

_LEAST = 1e-8
"""A probability of zero has no logarithm."""
_SPLITS = {"validation_fraction", "test_fraction", "train_fraction"}


class Lesson:
    """What teachers answer to each training image, and how much of the loss that is."""

    def __init__(self, softened: Tensor, train: Train) -> None:
        self.logarithms = softened.clamp(min=_LEAST).log()
        """Of the probabilities, float32 [images, classes], in the order of the training split."""
        self.share, self.temperature = train.teacher_share, train.teacher_temperature

    def blend(self, losses: Tensor, logits: Tensor, indices: Tensor) -> Tensor:
        """Return `share` of the loss towards the teachers and the rest of `losses` [n], towards the labels.

        `logits` float32 [n, classes] are the student's for the training images `indices` [n]. All answers are softened
        by the temperature, and their divergence is multiplied by its square, which keeps the size of its gradient
        (section 2.1).
        """
        wanted = self.logarithms[indices].to(logits.device)
        given = F.log_softmax(logits / self.temperature, dim=1)
        divergence = F.kl_div(given, wanted, reduction="none", log_target=True).sum(dim=1)
        return (1 - self.share) * losses + self.share * self.temperature**2 * divergence


def find_teachers(recipe: Recipe, dataset: Dataset) -> list[TrainedRun]:
    """Load the recipe's teachers.

    Raises `RunError` where one answers other labels, wants other pixels, or learned from other images: it might have
    seen those that the student is judged by.
    """
    runs = [load_run(path) for path in recipe.train.teachers]
    for run in runs:
        if reason := _unfit(run, recipe, dataset):
            raise RunError(f"train.teachers {run.path}: {reason}")
    return runs


def _unfit(run: TrainedRun, recipe: Recipe, dataset: Dataset) -> str | None:
    if recipe.augment.mixup or recipe.augment.cutmix:
        return "it answers whole images; leave out augment.mixup and augment.cutmix"
    if run.labels != dataset.labels:
        return f"it knows {', '.join(run.labels[:5])}…, the data has {', '.join(dataset.labels[:5])}…"
    if run.recipe.input.preprocessing() != recipe.input.preprocessing():
        return "it was trained on images of another [input]; give both recipes the same"
    if run.fingerprint != dataset.fingerprint or _splits(run.recipe.data) != _splits(recipe.data):
        return "it was trained on other data or other splits, so it may have seen images that this run is judged by"
    return None


def _splits(data: Data) -> dict[str, float]:
    return data.model_dump(include=_SPLITS)


@torch.inference_mode()
def prepare_lesson(runs: list[TrainedRun], feed: Feed, recipe: Recipe, world: World, watcher: Watcher) -> Lesson:
    """Let the teachers answer the training images; several processes share them."""
    device, train = pick_device(recipe.train.device), recipe.train
    teachers = [(run.model.to(device), Normalise(run.mean, run.std)) for run in runs]
    mine = world.share(torch.arange(len(feed)))
    softened, done = torch.zeros(len(feed), len(runs[0].labels)), 0
    for pixels, _ in feed.ordered(mine):
        views = [pixels, pixels.flip(2)] if recipe.augment.flip else [pixels]
        answers = [
            F.softmax(model(normalise(view.to(device))).float() / train.teacher_temperature, dim=1)
            for model, normalise in teachers
            for view in views
        ]
        softened[mine[done : done + len(pixels)]] = torch.stack(answers).mean(dim=0).cpu()
        done += len(pixels)
        watcher.images("asking the teachers", done, len(mine))
    return Lesson(world.sum(softened), train)
