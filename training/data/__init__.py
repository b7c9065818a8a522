"""Images and labels: where they come from, how they are split for life, and how they reach the network."""

from training.data.dataset import Dataset, Split
from training.data.sources import open_dataset

__all__ = ["Dataset", "Split", "open_dataset"]
