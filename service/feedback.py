"""True labels that callers send back, kept for the next retraining: files that any worker can write at once.

`<folder>/images/<model>/<label>/<sha256>.<format>` is a folder per class, as training reads it, and
`<folder>/records/<model>/<id>.json` says which request each label belongs to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
import uuid
from pathlib import Path
from urllib.parse import quote

from service.errors import ServiceError

_USAGE = ".bytes"


class FeedbackOff(ServiceError):
    """No folder for feedback is configured."""

    status = 404
    code = "feedback.off"


class FeedbackFull(ServiceError):
    """The quota is used up."""

    status = 507
    code = "feedback.full"


class FeedbackFolder:
    """Keeps labels and images until `max_bytes` are used."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def keep(
        self, model: str, version: int, request_id: str, label: str, image: tuple[bytes, str] | None
    ) -> str | None:
        """Store one label, with the image's bytes and format if there is one; return the image's SHA-256.

        Raises `FeedbackFull`.
        """
        digest = hashlib.sha256(image[0]).hexdigest() if image else None
        record = {
            "request_id": request_id, "model": model, "version": version, "label": label, "image": digest,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        text = json.dumps(record).encode() + b"\n"
        files = {self.folder / "records" / quote(model, safe="") / f"{uuid.uuid4().hex}.json": text}
        if image:
            place = self.folder / "images" / quote(model, safe="") / _folder_name(label)
            files[place / f"{digest}.{image[1].lower()}"] = image[0]
        self._write({path: data for path, data in files.items() if not path.exists()})
        return digest

    def _write(self, files: dict[Path, bytes]) -> None:
        self._claim(sum(map(len, files.values())))
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{uuid.uuid4().hex}")
            temporary.write_bytes(data)
            temporary.replace(path)

    def _claim(self, size: int) -> None:
        """Count bytes against the quota, over all workers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _USAGE, "a+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            used = int(handle.read() or 0)
            if used + size > self.max_bytes:
                raise FeedbackFull(f"The feedback folder holds {used} of the {self.max_bytes} bytes that it may.")
            handle.truncate(0)
            handle.write(str(used + size))


def _folder_name(label: str) -> str:
    """Return the label as one safe path component; ordinary labels stay as they are."""
    name = quote(label, safe=" ,()'+&")
    return name.replace(".", "%2E", 1) if name.startswith(".") else name
