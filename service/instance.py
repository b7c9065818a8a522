"""The private folder of one running service: its sockets, its process id, and the mark that it is draining."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ENVIRONMENT = "CLEARSIGHT_INSTANCE"
"""How the parent tells its children where the folder is; not a setting."""
_DRAINING = "draining"


class Instance:
    """Paths inside the folder. Nobody but its owner may enter it, and no two services share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, runtime: Path) -> Instance:
        """Make a fresh folder below `runtime` and let children inherit it."""
        folder = Path(tempfile.mkdtemp(prefix="clearsight-", dir=runtime))
        os.environ[ENVIRONMENT] = str(folder)
        return cls(folder)

    @classmethod
    def inherited(cls) -> Instance | None:
        """Return the folder that the parent made; None in a process without one."""
        folder = os.environ.get(ENVIRONMENT)
        return cls(Path(folder)) if folder else None

    @property
    def engine_address(self) -> str:
        """Where the engine listens."""
        return f"ipc://{self.folder}/engine"

    def begin_draining(self) -> None:
        """Let every worker answer `/readyz` with 503 from now on."""
        (self.folder / _DRAINING).touch()

    def draining(self) -> bool:
        """Return whether the service is going down."""
        return (self.folder / _DRAINING).exists()
