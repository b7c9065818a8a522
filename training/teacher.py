"""Trained networks that teach another: knowledge distillation, Hinton et al. 2015, https://arxiv.org/abs/1503.02531.

The student learns from the mean of their answers. They answer every training image once, before the first epoch, as it
is and mirrored where the recipe mirrors, which costs one pass of each teacher; or in every batch what the student sees,
shifted, erased and mixed, which costs a pass in every epoch and teaches more (Beyer et al. 2022,
https://arxiv.org/abs/2106.05237).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.augment import Normalise
from training.data.dataset import Dataset
from training.data.feed import Feed
from training.device import HALF, pick_device
from training.distributed import World
from training.errors import RunError
from training.recipe import Data, Recipe, Train
from training.runs import TrainedRun, load_run
from training.watcher import Watcher

_LEAST = 1e-8
"""A probability of zero has no logarithm."""
_SPLITS = {"validation_fraction", "test_fraction", "train_fraction"}


Answers = Callable[[Tensor, Tensor], Tensor]
"""Training images' indices [n] and the batch x [n, c, h, w] made of them, to logarithms of softened probabilities,
float32 [n, classes]."""


class Lesson:
    """What teachers answer, and how much of the loss that is."""

    def __init__(self, answers: Answers, train: Train) -> None:
        self.answers = answers
        self.share, self.temperature = train.teacher_share, train.teacher_temperature

    def blend(self, losses: Tensor, logits: Tensor, indices: Tensor, x: Tensor) -> Tensor:
        """Return `share` of the loss towards the teachers and the rest of `losses` [n], towards the labels.

        `logits` float32 [n, classes] are the student's for `x` [n, c, h, w], made of the training images `indices`
        [n]. All answers are softened by the temperature, and their divergence is multiplied by its square, which keeps
        the size of its gradient (section 2.1).
        """
        wanted = self.answers(indices, x)
        given = F.log_softmax(logits / self.temperature, dim=1)
        divergence = F.kl_div(given, wanted, reduction="none", log_target=True).sum(dim=1)
        return (1 - self.share) * losses + self.share * self.temperature**2 * divergence


class Prepared:
    """What the teachers said before the first epoch."""

    def __init__(self, softened: Tensor) -> None:
        self.logarithms = softened.clamp(min=_LEAST).log()
        """Of the probabilities, float32 [images, classes], in the order of the training split."""

    def __call__(self, indices: Tensor, x: Tensor) -> Tensor:
        """See `Answers`."""
        return self.logarithms[indices].to(x.device)


class Present:
    """The teachers themselves, who see what the student sees."""

    def __init__(self, runs: list[TrainedRun], train: Train) -> None:
        self._device, self._temperature = pick_device(train.device), train.teacher_temperature
        self._half = HALF.get(train.precision)
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        models = [run.model.to(self._device).to(memory_format=layout).eval() for run in runs]
        self._models = [torch.compile(m, backend=train.compile_backend) if train.compile else m for m in models]

    @torch.no_grad()
    def __call__(self, indices: Tensor, x: Tensor) -> Tensor:
        """See `Answers`."""
        with torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None):
            answers = [F.softmax(model(x).float() / self._temperature, dim=1) for model in self._models]
        return torch.stack(answers).mean(dim=0).clamp(min=_LEAST).log()


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
    if (recipe.augment.mixup or recipe.augment.cutmix) and recipe.train.teachers_see == "images":
        return 'it answers whole images; set train.teachers_see="views", or leave out augment.mixup and augment.cutmix'
    small = recipe.train.small_side
    if small and recipe.train.teachers_see == "views" and not run.recipe.train.small_side:
        return f"it never saw images of {small} pixels, as this run will; leave out train.small_side and small_fraction"
    if run.labels != dataset.labels:
        return f"it knows {', '.join(run.labels[:5])}…, the data has {', '.join(dataset.labels[:5])}…"
    if run.recipe.input.preprocessing() != recipe.input.preprocessing():
        return "it was trained on images of another [input]; give both recipes the same"
    if run.fingerprint != dataset.fingerprint or _splits(run.recipe.data) != _splits(recipe.data):
        return "it was trained on other data or other splits, so it may have seen images that this run is judged by"
    return None


def _splits(data: Data) -> dict[str, float]:
    return data.model_dump(include=_SPLITS)


def prepare_lesson(runs: list[TrainedRun], feed: Feed, recipe: Recipe, world: World, watcher: Watcher) -> Lesson:
    """Make the lesson that the recipe asks for."""
    if recipe.train.teachers_see == "views":
        return Lesson(Present(runs, recipe.train), recipe.train)
    return Lesson(Prepared(_ask(runs, feed, recipe, world, watcher)), recipe.train)


@torch.inference_mode()
def _ask(runs: list[TrainedRun], feed: Feed, recipe: Recipe, world: World, watcher: Watcher) -> Tensor:
    """Let the teachers answer the training images, several processes sharing them; softened [images, classes]."""
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
    return world.sum(softened)
