"""A model's probabilities for a split, image by image in its order. Only a few batches are in memory at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from bundle import session
from bundle.manifest import Preprocessing
from torch import nn

from training.data import Split
from training.data.augment import Normalise
from training.data.feed import in_order
from training.watcher import UNWATCHED, Watcher

Probabilities = npt.NDArray[np.float32]
BATCH = 256


@torch.inference_mode()
def of_network(
    model: nn.Module, split: Split, preprocessing: Preprocessing, normalise: Normalise, watcher: Watcher = UNWATCHED
) -> Probabilities:
    """Return float32 [n, classes] of a PyTorch network, in evaluation mode."""
    model.eval()
    rows = [
        model(normalise(pixels)).float().softmax(dim=1).numpy()
        for pixels in in_order(split, preprocessing, BATCH, watcher)
    ]
    return np.concatenate(rows)


def of_graph(
    opened: session.Session, split: Split, preprocessing: Preprocessing, watcher: Watcher = UNWATCHED
) -> Probabilities:
    """Return float32 [n, classes] of a sealed graph in onnxruntime."""
    rows = [
        session.run(opened, pixels.numpy(), batch_size=BATCH)["probabilities"]
        for pixels in in_order(split, preprocessing, BATCH, watcher)
    ]
    return np.concatenate(rows)
