"""The model store: `<root>/<name>/<version>/` directories that appear whole or not at all.

Versions are integers and never edited in place. `channels.json` beside them says which version is champion.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from bundle.errors import BundleConflict, BundleError, BundleMissing
from bundle.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileFact, Manifest, Strict, digest_of, parse_manifest

CHANNELS_FILE = "channels.json"
_STAGING = ".staging-"
_CHUNK = 1 << 20


class Canary(Strict):
    """A version that answers a share of the unpinned requests."""

    version: int
    weight: Annotated[float, Field(gt=0.0, lt=1.0)]


class Channels(Strict):
    """`channels.json`: which versions production uses. `history` lists earlier champions, oldest first."""

    champion: int | None
    canary: Canary | None
    shadow: int | None
    history: tuple[int, ...]

    def promoted(self, version: int) -> Channels:
        """Return the channels with another champion and the present one remembered."""
        if self.champion == version:
            return self
        history = self.history + ((self.champion,) if self.champion else ())
        canary = self.canary if self.canary and self.canary.version != version else None
        shadow = self.shadow if self.shadow != version else None
        return Channels(champion=version, canary=canary, shadow=shadow, history=history)

    def assigned(self, channel: str, version: int | None, weight: float | None = None) -> Channels:
        """Return the channels with another `canary` (which needs a weight) or `shadow`; None withdraws it.

        Raises `BundleConflict` for the champion: it cannot be compared with itself.
        """
        if version is not None and version == self.champion:
            raise BundleConflict(f"version {version} is the champion; it cannot be its own {channel}")
        if channel == "shadow":
            return self.model_copy(update={"shadow": version})
        canary = None if version is None else Canary(version=version, weight=weight or 0.0)
        return self.model_copy(update={"canary": canary})

    def rolled_back(self) -> Channels:
        """Return the channels with the champion before the present one. Raises `BundleMissing` where there is none."""
        if not self.history:
            raise BundleMissing("no earlier champion is known to roll back to")
        return self.model_copy(update={"champion": self.history[-1], "history": self.history[:-1]})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A version on disk: its folder, its parsed `bundle.json` and the digest of that file's bytes."""

    path: Path
    manifest: Manifest
    digest: str

    def read(self, file: str) -> bytes:
        """Return the bytes of a listed file after checking type, size and SHA-256. Raises `BundleError`."""
        return read_listed(self.path, file, self.manifest.files[file])


class Store:
    """Read and publish bundles below one folder. Readers take no lock and see whole versions only."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def names(self) -> list[str]:
        """List the models that have at least one version."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and self.versions(entry.name))

    def versions(self, name: str) -> list[int]:
        """List a model's published versions, ascending."""
        try:
            entries = list((self.root / name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        numbered = [e for e in entries if e.name.isdecimal() and e.name == str(int(e.name)) and not e.is_symlink()]
        return sorted(int(entry.name) for entry in numbered)

    def channels(self, name: str) -> Channels:
        """Read `channels.json`; without one, the store has no champion for the model."""
        path = self.root / name / CHANNELS_FILE
        try:
            raw = read_bounded(path, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return Channels(champion=None, canary=None, shadow=None, history=())
        try:
            return Channels.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise BundleError(f"{name}/{CHANNELS_FILE}: {where}: {first['msg']}") from None

    def open(self, name: str, version: int | None = None) -> Bundle:
        """Parse a version's `bundle.json` (the champion's without `version`); its files are checked when read.

        Raises `BundleMissing` naming what there is instead, or `BundleError` naming what is wrong.
        """
        if version is None:
            version = self.channels(name).champion
            if version is None:
                listed = ", ".join(self.names()) or "none"
                raise BundleMissing(f"{name} has no champion in {self.root}; models there: {listed}")
        path = self.root / name / str(version)
        if version not in self.versions(name):
            listed = ", ".join(map(str, self.versions(name))) or "none"
            raise BundleMissing(f"{name} has no version {version} in {self.root}; versions there: {listed}")
        try:
            raw = read_bounded(path / MANIFEST_FILE, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            raise BundleError(f"{name}/{version} has no {MANIFEST_FILE}") from None
        manifest = parse_manifest(raw)
        if (manifest.name, manifest.version) != (name, version):
            raise BundleError(f"{path} holds {manifest.name} version {manifest.version}, not {name} version {version}")
        return Bundle(path, manifest, digest_of(raw))

    def check_files(self, bundle: Bundle) -> None:
        """Check size and SHA-256 of every file, and that nothing else lies in the folder. Raises `BundleError`."""
        listed = set(bundle.manifest.files) | {MANIFEST_FILE}
        for path in sorted(bundle.path.rglob("*")):
            relative = path.relative_to(bundle.path).as_posix()
            if path.is_symlink():
                raise BundleError(f"{relative} is a symbolic link; a bundle holds regular files only")
            if not path.is_dir() and relative not in listed:
                raise BundleError(f"{relative} is not listed in {MANIFEST_FILE}")
        for file in bundle.manifest.files:
            bundle.read(file)

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Yield an empty folder on the store's file system; it is gone afterwards unless it was published."""
        path = self.root / name / f"{_STAGING}{uuid.uuid4().hex}"
        path.mkdir(parents=True)
        try:
            with _locked_folder(path):
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, name: str, staged: Path, manifest_for: Callable[[int, dict[str, FileFact]], Manifest]) -> Bundle:
        """Turn a staged folder into the model's next version, atomically and durably.

        `manifest_for(version, files)` returns the manifest to write; it must carry both as given.
        """
        with self.lock(name):
            version = max(self.versions(name), default=0) + 1
            files = {p.relative_to(staged).as_posix(): fact_of(p) for p in sorted(staged.rglob("*")) if p.is_file()}
            raw = manifest_for(version, files).to_json()
            parse_manifest(raw)
            (staged / MANIFEST_FILE).write_bytes(raw)
            for path in [*staged.rglob("*"), staged]:
                _fsync(path)
            staged.rename(self.root / name / str(version))
            _fsync(self.root / name)
        return self.open(name, version)

    def set_channels(self, name: str, change: Callable[[Channels], Channels]) -> Channels:
        """Replace `channels.json` atomically with what `change` makes of it; every version named must exist."""
        with self.lock(name):
            channels = change(self.channels(name))
            named = [channels.champion, channels.shadow, channels.canary.version if channels.canary else None]
            for version in named:
                if version is not None:
                    self.open(name, version)
            folder = self.root / name
            temporary = folder / f".{CHANNELS_FILE}.{uuid.uuid4().hex}"
            try:
                temporary.write_text(channels.model_dump_json(indent=1) + "\n")
                _fsync(temporary)
                temporary.replace(folder / CHANNELS_FILE)
            finally:
                temporary.unlink(missing_ok=True)  # left only where the disk was full
            _fsync(folder)
        return channels

    def promote(self, name: str, version: int) -> Channels:
        """Make a version the champion and remember the one before it."""
        return self.set_channels(name, lambda channels: channels.promoted(version))

    def rollback(self, name: str) -> Channels:
        """Make the champion before the present one champion again."""
        return self.set_channels(name, Channels.rolled_back)

    def remove(self, name: str, version: int) -> None:
        """Delete a version that no channel uses: it vanishes in one rename. Raises `BundleConflict` where one does."""
        with self.lock(name):
            channels = self.channels(name)
            used = (channels.champion, channels.shadow, channels.canary.version if channels.canary else None)
            if version in used:
                raise BundleConflict(f"{name}/{version} is in use as champion, canary or shadow")
            self.open(name, version)
            hidden = self.root / name / f"{_STAGING}{uuid.uuid4().hex}"
            (self.root / name / str(version)).rename(hidden)
            _fsync(self.root / name)
        shutil.rmtree(hidden)

    def clear_stale(self, name: str) -> list[Path]:
        """Delete what killed publishers left; a staging folder at work is locked by its publisher and stays."""
        stale = []
        with self.lock(name):  # whoever writes channels holds the lock, so what lies here now was left
            for path in (self.root / name).glob(f".{CHANNELS_FILE}.*"):
                path.unlink()
                stale.append(path)
        for path in (self.root / name).glob(f"{_STAGING}*"):
            with _locked_folder(path) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)
                    stale.append(path)
        return stale

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the model's publishing lock; another publisher waits."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


@contextmanager
def _locked_folder(path: Path) -> Iterator[bool]:
    """Lock a folder itself while it is worked on; yields whether the lock was free. A dead process holds none."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes without following a symbolic link. Raises `BundleError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {os.strerror(error.errno or 0)}") from None
    with os.fdopen(descriptor, "rb") as handle:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path.name} is not a regular file")
        if status.st_size > limit:
            raise BundleError(f"{path.name} is {status.st_size} bytes; at most {limit} are read")
        return handle.read(limit + 1)


def read_listed(folder: Path, file: str, fact: FileFact) -> bytes:
    """Return a listed file's bytes after checking its size and SHA-256. Raises `BundleError` naming the file."""
    for parent in list((folder / file).parents)[: file.count("/")]:
        if parent.is_symlink():
            raise BundleError(f"{file} lies behind a symbolic link")
    try:
        raw = read_bounded(folder / file, fact.bytes)
    except FileNotFoundError:
        raise BundleError(f"{file} is listed in {MANIFEST_FILE} but missing") from None
    if len(raw) != fact.bytes:
        raise BundleError(f"{file} is {len(raw)} bytes but {MANIFEST_FILE} says {fact.bytes}")
    actual = hashlib.sha256(raw).hexdigest()
    if actual != fact.sha256:
        raise BundleError(f"{file} has sha256 {actual[:12]}… but {MANIFEST_FILE} says {fact.sha256[:12]}…")
    return raw


def fact_of(path: Path) -> FileFact:
    """Return size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileFact(sha256=digest.hexdigest(), bytes=size)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
