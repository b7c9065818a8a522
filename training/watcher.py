"""How far something that takes long is, told to whoever watches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Batch:
    """Where an epoch stands after a batch. `images` and `loss`, their mean so far in nats, are of this epoch."""

    epoch: int
    epochs: int
    number: int
    batches: int
    images: int
    loss: float
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Images over the time since the epoch began."""
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Losses are in nats; the training figures are over the augmented images as they passed."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float
    best: bool


class Watcher:
    """Nobody watches: every method does nothing. `training.live.Live` shows a person the same."""

    def stage(self, what: str) -> None:
        """Something that may take long begins."""

    def images(self, what: str, done: int, total: int) -> None:
        """So many images of a pass are done."""

    def batch(self, batch: Batch) -> None:
        """A batch was learned from."""

    def epoch(self, epoch: Epoch, epochs: int) -> None:
        """An epoch of `epochs` is over and kept."""


UNWATCHED = Watcher()
