"""The private folder of one running service: its sockets, its process id, and the mark that it is draining."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

ENVIRONMENT = "CLEARSIGHT_INSTANCE"
"""How the parent tells its children where the folder is; not a setting."""
_FOLDER = "clearsight-"
_PARENT = "parent.json"
_DRAINING = "draining"


class Instance:
    """Paths inside the folder. Nobody but its owner may enter it, and no two services share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, runtime: Path) -> Instance:
        """Make a fresh folder below `runtime` and let children inherit it."""
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=runtime))
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

    @property
    def rows_path(self) -> Path:
        """Where the engine takes rows."""
        return self.folder / "rows"

    @property
    def news_address(self) -> str:
        """Where the engine tells its news."""
        return f"ipc://{self.folder}/news"

    def introduce(self, pid: int, port: int) -> None:
        """Note whose folder this is, for `drain` and for people."""
        (self.folder / _PARENT).write_text(json.dumps({"pid": pid, "port": port}))

    @classmethod
    def of_port(cls, runtime: Path, port: int) -> tuple[Instance, int] | None:
        """Find the running service of this user on a port, and its process id."""
        for note in runtime.glob(f"{_FOLDER}*/{_PARENT}"):
            try:
                known = json.loads(note.read_text())
                os.kill(known["pid"], 0)
            except (OSError, ValueError, KeyError):
                continue
            if known.get("port") == port:
                return cls(note.parent), int(known["pid"])
        return None

    def begin_draining(self) -> None:
        """Let every worker answer `/readyz` with 503 from now on."""
        (self.folder / _DRAINING).touch()

    def draining(self) -> bool:
        """Return whether the service is going down."""
        return (self.folder / _DRAINING).exists()
