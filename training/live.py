"""Live progress: on a terminal one line that moves, elsewhere a plain line for each epoch and stage."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from training.watcher import Batch, Epoch, Watcher

REFRESHES_PER_SECOND = 4


class Live(Watcher):
    """Show a person how far it is, while entered; what is printed meanwhile appears above the moving line."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(force_terminal=sys.stdout.isatty(), highlight=False, markup=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            expand=True,
            refresh_per_second=REFRESHES_PER_SECOND,
            disable=not self.console.is_terminal,
        )
        self.shown: tuple[str, TaskID] | None = None

    def __enter__(self) -> Live:
        """Begin to show."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()

    def stage(self, what: str) -> None:
        """Name what begins, on a line that moves without an end in sight."""
        self._show(what, what, 0, None, "")
        if not self.console.is_terminal:
            self._say(what)

    def images(self, what: str, done: int, total: int) -> None:
        """Show a pass over images."""
        self._show(what, what, done, total, f"{done:,}/{total:,} images  ETA")

    def batch(self, batch: Batch) -> None:
        """Show the epoch, the batch, images/s, the loss, and the time that the remaining epochs will take."""
        self._show(
            "training",
            f"epoch {batch.epoch}/{batch.epochs}",
            (batch.epoch - 1) * batch.batches + batch.number,
            batch.epochs * batch.batches,
            f"batch {batch.number}/{batch.batches}  {batch.images_per_second:.0f} images/s  loss {batch.loss:.4f}  ETA",
        )

    def epoch(self, epoch: Epoch, epochs: int) -> None:
        """Print a line for good."""
        self._say(
            f"epoch {epoch.epoch:3}/{epochs}  train {epoch.train_loss:.4f} {epoch.train_accuracy:.4f}"
            f"  validation {epoch.validation_loss:.4f} {epoch.validation_accuracy:.4f}{'*' if epoch.best else ' '}"
            f"  {epoch.images_per_second:.0f} images/s"
        )

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def _show(self, phase: str, description: str, done: int, total: int | None, figures: str) -> None:
        """Move the line; a new phase begins a new one, because it has a speed of its own."""
        if self.shown is None or self.shown[0] != phase:
            if self.shown is not None:
                self.bar.remove_task(self.shown[1])
            self.shown = phase, self.bar.add_task(description, total=total, completed=done, figures=figures)
        self.bar.update(self.shown[1], description=description, completed=done, total=total, figures=figures)
