"""The learning rate as a share of its peak, step by step."""

from __future__ import annotations

import math

from training.recipe import Train


def learning_rate_factor(step: int, steps: int, train: Train) -> float:
    """Return the factor for `step` of `steps`, in (0, 1].

    `one-cycle` rises and falls linearly to zero (Smith and Topin 2017, https://arxiv.org/abs/1708.07120, in the shape
    of Page's DAWNBench entry); `cosine` falls along half a cosine after the same warm-up; `step`
    divides by ten at each of `step_at`; `constant` stays.
    """
    warmup = train.warmup_fraction * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    if train.schedule == "one-cycle":
        return max(1.0 - done, 1.0 / steps)
    if train.schedule == "cosine":
        return max(0.5 * (1 + math.cos(math.pi * done)), 1e-4)
    if train.schedule == "step":
        return 0.1 ** sum(step >= share * steps for share in train.step_at)
    return 1.0
