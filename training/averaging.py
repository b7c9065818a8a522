"""An exponential moving average of a network's weights and buffers."""

from __future__ import annotations

import copy

import torch
from torch import nn


class AveragedModel:
    """Keep `decay * average + (1 - decay) * weights` after every step; `decay` 0 follows the weights themselves.

    The decay starts small, `(1 + step) / (10 + step)`, so that the first random weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.model = copy.deepcopy(model).eval() if decay else model

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])
