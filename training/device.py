"""The device that a recipe asks for."""

from __future__ import annotations

import torch

from training.errors import TrainingError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What a recipe's precision computes in, where that is not float32."""


def pick_device(name: str) -> torch.device:
    """Return the recipe's device; `auto` takes CUDA where there is one. Raises `TrainingError` where it is missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("train.device is cuda, but torch finds no CUDA device; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
