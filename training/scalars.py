"""TensorBoard scalars of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHOWN = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")


class Scalars:
    """Write an epoch's figures to a folder; without a folder, do nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.writer: Any = None

    def write(self, line: dict[str, Any]) -> None:
        """Add one line of the log."""
        if self.folder is None:
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import: only for those who want it

            self.writer = SummaryWriter(str(self.folder), purge_step=line["epoch"])
        for name in SHOWN:
            self.writer.add_scalar(name.replace("_", "/", 1), line[name], line["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()
