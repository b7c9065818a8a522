"""The epochs of a run, and what is kept between them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.checkpoint import load, save, write_bytes
from training.curves import plot_curves
from training.data.augment import Normalise, shrink
from training.data.feed import Feed
from training.data.vary import Vary
from training.device import pick_device
from training.distributed import World
from training.errors import TrainingError
from training.loss import class_weights, make_loss
from training.optimizer import freeze, set_rate, train_mode
from training.recipe import Recipe
from training.runs import BEST_FILE, LAST_FILE, LOG_FILE, load_weights, make_model
from training.scalars import Scalars
from training.schedule import learning_rate_factor
from training.step import Stepper
from training.watcher import UNWATCHED, Batch, Epoch, Watcher
from training.whiten import whiten


class Loop:
    """The state of a run between epochs. Every random choice of an epoch follows from the seed and its number."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        feeds: dict[str, Feed],
        classes: int,
        normalise: Normalise,
        world: World,
        warm_start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.path, self.recipe, self.world, self.normalise = path, recipe, world, normalise
        self.feed, self.validation, self.classes = feeds["train"], feeds["validation"], classes
        self.device = pick_device(recipe.train.device)
        torch.manual_seed(recipe.train.seed)
        model = make_model(recipe, classes)
        if recipe.train.whiten:
            whiten(model, self.feed, normalise)
        if warm_start is not None:
            load_weights(model, dict(warm_start), Path("the weights to start from"))
        freeze(model, recipe.train.freeze)
        if recipe.train.channels_last:
            model = model.to(memory_format=torch.channels_last)
        loss = make_loss(recipe.train, self.feed.targets, classes)
        self.stepper = Stepper(model.to(self.device), recipe.train, loss, world, self.device)
        self.vary = Vary(recipe.augment, classes)
        self.scalars = Scalars(path / "tensorboard" if recipe.train.tensorboard and world.writes else None)
        self.history: list[dict[str, Any]] = []
        if (path / LAST_FILE).exists():
            state = load(path / LAST_FILE)
            self.stepper.restore(state)
            self.history = state["history"]

    def run(self, watcher: Watcher = UNWATCHED) -> None:
        """Train the epochs that are left."""
        with _flushed_denormals():
            while not self.finished():
                epoch = self._epoch(len(self.history) + 1, watcher)
                self.history.append(asdict(epoch))
                if self.world.writes:
                    self._keep(epoch)
                    watcher.epoch(epoch, self.recipe.train.epochs)
                self.world.wait()
        self.scalars.close()

    def finished(self) -> bool:
        """All epochs are done, or the last `patience` of them brought nothing better."""
        patience = self.recipe.train.patience
        stale = patience is not None and len(self.history) > patience
        return len(self.history) >= self.recipe.train.epochs or (
            stale and not any(line["best"] for line in self.history[-(patience or 0) :])
        )

    def _epoch(self, number: int, watcher: Watcher) -> Epoch:
        started = time.monotonic()
        loss, accuracy, rate = self.learn(number, watcher)
        seconds = time.monotonic() - started
        if not loss < float("inf"):
            raise TrainingError(f"the loss is {loss} in epoch {number}: lower train.learning_rate")
        validation_loss, validation_accuracy = self._validate()
        return Epoch(
            epoch=number,
            train_loss=round(loss, 5),
            train_accuracy=round(accuracy, 5),
            validation_loss=round(validation_loss, 5),
            validation_accuracy=round(validation_accuracy, 5),
            learning_rate=round(rate, 6),
            seconds=round(seconds, 3),
            images_per_second=round(len(self.feed) / seconds, 1),
            best=validation_accuracy > max((e["validation_accuracy"] + 5e-6 for e in self.history), default=-1.0),
        )

    def learn(self, number: int, watcher: Watcher = UNWATCHED) -> tuple[float, float, float]:
        """Train on every image once; return the mean loss, the accuracy and the last learning rate."""
        train, seed = self.recipe.train, self.recipe.train.seed * 1_000_003 + number
        torch.manual_seed(seed + self.world.rank * 7_919)  # dropout, mixing and RandAugment draw from here
        train_mode(self.stepper.model, train.freeze)
        order = self._order(seed)
        sums, rate, started = torch.zeros(3, dtype=torch.float64), 0.0, time.monotonic()
        mine = [self.world.share(batch) for batch in order]
        for index, (pixels, targets) in enumerate(self.feed.augmented(mine, seed)):
            step = (number - 1) * len(order) + index
            rate = train.learning_rate * learning_rate_factor(step, train.epochs * len(order), train)
            set_rate(self.stepper.optimizer, rate)
            x, wanted = self._prepare(pixels, targets, number)
            loss, correct = self.stepper.step(x, wanted, len(order[index]), mine[index])
            sums[:2] += torch.stack([loss.double(), correct.double()]).cpu()
            sums[2] += len(targets)
            watcher.batch(self._batch(number, index + 1, len(order), float(sums[0] / sums[2]), started))
        loss_sum, correct_sum, images = self.world.sum(sums).tolist()
        return loss_sum / images, correct_sum / images, rate

    def _batch(self, epoch: int, number: int, batches: int, loss: float, started: float) -> Batch:
        """Say where the epoch stands; the loss is that of this process's images."""
        images = min(number * self.recipe.train.batch_size, len(self.feed))
        return Batch(epoch, self.recipe.train.epochs, number, batches, images, loss, time.monotonic() - started)

    def _order(self, seed: int) -> list[Tensor]:
        """Return the epoch's batches of indices, equal in all processes; a last batch too small to share is merged."""
        generator = torch.Generator().manual_seed(seed)
        if self.recipe.train.balance == "sampling":
            weights = class_weights(self.feed.targets, self.classes)[self.feed.targets]
            indices = torch.multinomial(weights, len(self.feed), replacement=True, generator=generator)
        else:
            indices = torch.randperm(len(self.feed), generator=generator)
        batches = list(torch.split(indices, self.recipe.train.batch_size))
        if len(batches) > 1 and len(batches[-1]) < 2 * self.world.size:
            last = batches.pop()
            batches[-1] = torch.cat([batches[-1], last])
        return batches

    def _prepare(self, pixels: Tensor, targets: Tensor, number: int) -> tuple[Tensor, Tensor]:
        train = self.recipe.train
        x = self.normalise(self.vary.pixels(pixels).to(self.device, non_blocking=True))
        if train.small_side and number <= train.small_fraction * train.epochs:
            x = shrink(x, train.small_side)
        return self.vary.normalised(x, targets.to(self.device, non_blocking=True))

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float]:
        """Return loss and accuracy of the averaged weights, exact over however many processes share the images."""
        model = self.stepper.average.model
        self.world.same_weights(model)
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        for pixels, targets in self.validation.ordered(self.world.share(torch.arange(len(self.validation)))):
            logits, wanted = model(self.normalise(pixels.to(self.device))).float(), targets.to(self.device)
            loss = F.cross_entropy(logits, wanted, reduction="sum").double()
            sums += torch.stack([loss, (logits.argmax(dim=1) == wanted).sum().double()]).cpu()
        loss_sum, correct = self.world.sum(sums).tolist()
        return loss_sum / len(self.validation), correct / len(self.validation)

    def _keep(self, epoch: Epoch) -> None:
        """Write the checkpoints; `last.pt` goes last, because it decides where a resumed run goes on."""
        if epoch.best:
            weights = self.stepper.average.model.state_dict()
            save(self.path / BEST_FILE, {name: value.detach().cpu().contiguous() for name, value in weights.items()})
        write_bytes(self.path / LOG_FILE, "".join(json.dumps(line) + "\n" for line in self.history).encode())
        plot_curves(self.history, self.path / "curves.png")
        self.scalars.write(self.history[-1])
        save(self.path / LAST_FILE, {**self.stepper.state(), "history": self.history})


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Round weights that decayed to almost nothing to zero, as long as it trains: they slow a CPU down many times."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
