"""A trained network that teaches another: knowledge distillation, Hinton et al. 2015, arXiv:1503.02531."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.augment import Normalise
from training.data.dataset import Dataset
from training.device import pick_device
from training.errors import RunError
from training.recipe import Data, Recipe, Train
from training.runs import TrainedRun, load_run

SAME_SPLITS = ("validation_fraction", "test_fraction")


class Teacher:
    """The answers of a run's best weights to the images that a student learns from, as a part of its loss."""

    def __init__(self, run: TrainedRun, student: Normalise, train: Train) -> None:
        self.share, self.temperature = train.teacher_share, train.teacher_temperature
        device, own = pick_device(train.device), Normalise(run.mean, run.std)
        self.model = run.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        factor = own.scale / student.scale  # from the student's normalisation to the teacher's
        self._factor = factor.reshape(1, -1, 1, 1).to(device)
        self._offset = (student.offset * factor - own.offset).reshape(1, -1, 1, 1).to(device)

    def blend(self, losses: Tensor, logits: Tensor, x: Tensor) -> Tensor:
        """Return `share` of the loss towards the teacher and the rest of `losses` [n], towards the labels.

        `logits` float32 [n, classes] are the student's for `x`, float32 [n, c, h, w] in its normalisation. Both
        answers are softened by the temperature, and their divergence is multiplied by its square, which keeps the
        size of its gradient (section 2.1).
        """
        with torch.inference_mode():
            wanted = F.log_softmax(self.model(x * self._factor + self._offset).float() / self.temperature, dim=1)
        given = F.log_softmax(logits / self.temperature, dim=1)
        divergence = F.kl_div(given, wanted.clone(), reduction="none", log_target=True).sum(dim=1)
        return (1 - self.share) * losses + self.share * self.temperature**2 * divergence


def find_teacher(recipe: Recipe, dataset: Dataset, student: Normalise) -> Teacher | None:
    """Load the recipe's teacher, or return None where it names none.

    Raises `RunError` where the teacher answers other labels, wants other pixels, or learned from other images: it
    might have seen those that the student is judged by.
    """
    if recipe.train.teacher is None:
        return None
    run = load_run(recipe.train.teacher)
    if reason := _unfit(run, recipe, dataset):
        raise RunError(f"train.teacher {recipe.train.teacher}: {reason}")
    return Teacher(run, student, recipe.train)


def _unfit(run: TrainedRun, recipe: Recipe, dataset: Dataset) -> str | None:
    if run.labels != dataset.labels:
        return f"it knows {', '.join(run.labels[:5])}…, the data has {', '.join(dataset.labels[:5])}…"
    if run.recipe.input.preprocessing() != recipe.input.preprocessing():
        return "it was trained on images of another [input]; give both recipes the same"
    if run.fingerprint != dataset.fingerprint or _splits(run.recipe.data) != _splits(recipe.data):
        return "it was trained on other data or other splits, so it may have seen images that this run is judged by"
    return None


def _splits(data: Data) -> dict[str, float]:
    return data.model_dump(include=set(SAME_SPLITS))
