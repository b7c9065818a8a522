from pathlib import Path

import pytest
import torch

from training.recipe import Recipe, parse_recipe
from training.train import train

torch.set_num_threads(1)  # networks this small gain nothing from two, and lose much on a busy machine

TINY = {"train": {"epochs": 2, "batch_size": 128}, "model": {"name": "resnet8"}}


@pytest.fixture
def tiny_recipe() -> Recipe:
    """Two epochs on the digits: seconds, and far better than chance."""
    return parse_recipe(TINY)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(parse_recipe(TINY), runs=tmp_path_factory.mktemp("runs"))
