"""One optimiser step: forward, backward, clip, update, average."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from training.averaging import AveragedModel
from training.device import HALF
from training.distributed import World
from training.errors import TrainingError
from training.loss import Loss
from training.optimizer import make_optimizer
from training.recipe import Train
from training.teacher import Lesson


class Stepper:
    """A network, its average and its optimiser. `step` takes this process's part of a batch."""

    def __init__(self, model: nn.Module, train: Train, loss: Loss, world: World, device: torch.device) -> None:
        self.model, self.train, self.loss, self.world, self.device = model, train, loss, world, device
        self.lesson: Lesson | None = None
        """What a teacher answers to the training images, where there is one."""
        self.average = AveragedModel(model, train.ema_decay)
        self.optimizer = make_optimizer(model, train)
        compiled = torch.compile(model, backend=train.compile_backend) if train.compile else model
        self.network = world.wrap(compiled)  # type: ignore[arg-type]
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")

    def step(self, x: Tensor, targets: Tensor, images: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Learn from a batch of `images` over all processes; return its summed loss and how many it got right here.

        `indices` [n] say which training images `x` [n, c, h, w] are; only a lesson asks for them.

        The gradient is that of the mean over the whole batch, however unevenly processes share it.
        """
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        which = torch.arange(len(x)) if indices is None else indices
        parts = list(zip(*(_chunk(values, self.train) for values in (x, targets, which)), strict=True))
        for number, (part, wanted, these) in enumerate(parts):
            with self._without_exchange(number + 1 < len(parts)):
                logits = self._forward(part)
                losses = self.loss(logits.float(), wanted)
                if self.lesson:
                    losses = self.lesson.blend(losses, logits.float(), these, part)
                torch.autograd.backward(self.scaler.scale(losses.sum() * (self.world.size / images)))
            loss_sum += losses.detach().sum()
            correct += (logits.detach().argmax(dim=1) == _classes(wanted)).sum()
        self._update()
        return loss_sum, correct

    def _forward(self, x: Tensor) -> Tensor:
        """Return the logits. Raises `TrainingError` where torch.compile cannot do what the recipe asks."""
        with self.autocast():
            if not self.train.compile:
                return self.network(x)  # type: ignore[no-any-return]
            from torch._dynamo.exc import BackendCompilerFailed  # seconds to import: only for those who compile

            try:
                return self.network(x)  # type: ignore[no-any-return]
            except BackendCompilerFailed as error:
                inner = error.inner_exception
                why = f"{type(inner).__name__}: {inner}".splitlines()[0]
                raise TrainingError(
                    f"train.compile: {why}; set train.compile=false, or install a C++ compiler"
                ) from None

    def _update(self) -> None:
        if self.train.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), self.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.average.update(self.model)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the forward pass runs in the recipe's precision."""
        half = HALF.get(self.train.precision)
        return torch.autocast(self.device.type, dtype=half) if half else nullcontext()

    def _without_exchange(self, more: bool) -> AbstractContextManager[Any]:
        """Gradients travel between processes with the last part of a batch only."""
        if more and isinstance(self.network, nn.parallel.DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "average_step": self.average.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.average.step = state["average_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _chunk(values: Tensor, train: Train) -> tuple[Tensor, ...]:
    return torch.chunk(values, min(train.accumulate, len(values)))


def _classes(targets: Tensor) -> Tensor:
    return targets.argmax(dim=1) if targets.ndim == 2 else targets
