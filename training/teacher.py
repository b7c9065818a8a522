"""A trained network that teaches another: knowledge distillation, Hinton et al. 2015, https://arxiv.org/abs/1503.02531.

The teacher answers every training image once, before the first epoch, as it is and mirrored where the recipe mirrors;
the student learns from the mean. That costs one pass of the teacher instead of one in every epoch.
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

SPLITS = {"validation_fraction", "test_fraction", "train_fraction"}


class Lesson:
    """What a teacher answers to each training image, and how much of the loss that is."""

    def __init__(self, logits: Tensor, train: Train) -> None:
        self.logits = logits
        """float32 [images, classes], in the order of the training split."""
        self.share, self.temperature = train.teacher_share, train.teacher_temperature

    def blend(self, losses: Tensor, logits: Tensor, indices: Tensor) -> Tensor:
        """Return `share` of the loss towards the teacher and the rest of `losses` [n], towards the labels.

        `logits` float32 [n, classes] are the student's for the training images `indices` [n]. Both answers are softened
        by the temperature, and their divergence is multiplied by its square, which keeps the size of its gradient
        (section 2.1).
        """
        wanted = F.log_softmax(self.logits[indices].to(logits.device) / self.temperature, dim=1)
        given = F.log_softmax(logits / self.temperature, dim=1)
        divergence = F.kl_div(given, wanted, reduction="none", log_target=True).sum(dim=1)
        return (1 - self.share) * losses + self.share * self.temperature**2 * divergence


def find_teacher(recipe: Recipe, dataset: Dataset) -> TrainedRun | None:
    """Load the recipe's teacher, or return None where it names none.

    Raises `RunError` where the teacher answers other labels, wants other pixels, or learned from other images: it
    might have seen those that the student is judged by.
    """
    if recipe.train.teacher is None:
        return None
    run = load_run(recipe.train.teacher)
    if reason := _unfit(run, recipe, dataset):
        raise RunError(f"train.teacher {recipe.train.teacher}: {reason}")
    return run


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
    return data.model_dump(include=SPLITS)


@torch.inference_mode()
def prepare_lesson(run: TrainedRun, feed: Feed, recipe: Recipe, world: World, watcher: Watcher) -> Lesson:
    """Let the teacher answer the training images; several processes share them."""
    device = pick_device(recipe.train.device)
    model = run.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise, mine = Normalise(run.mean, run.std), world.share(torch.arange(len(feed)))
    answers, done = torch.zeros(len(feed), len(run.labels)), 0
    for pixels, _ in feed.ordered(mine):
        x = normalise(pixels.to(device))
        views = [x, x.flip(3)] if recipe.augment.flip else [x]
        answers[mine[done : done + len(x)]] = torch.stack([model(view).float().cpu() for view in views]).mean(dim=0)
        done += len(x)
        watcher.images("asking the teacher", done, len(mine))
    return Lesson(world.sum(answers), recipe.train)
