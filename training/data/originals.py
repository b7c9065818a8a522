"""CIFAR-10/100 and MNIST/Fashion-MNIST in the files that their authors publish, downloaded only when asked.

CIFAR's Python archives are pickles; they are read with an unpickler that makes arrays, strings and containers only.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.arrays import array_items
from training.data.dataset import Item
from training.errors import DataError

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]

_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True, slots=True)
class Original:
    """Where a set is published and, for CIFAR, its archive with MD5 as the authors give it."""

    url: str
    archive: str | None = None
    md5: str | None = None


ORIGINALS = {
    "cifar10": Original(
        "https://www.cs.toronto.edu/~kriz/", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
    ),
    "cifar100": Original(
        "https://www.cs.toronto.edu/~kriz/", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
    ),
    "mnist": Original("https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion-mnist": Original("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
}


def read_original(
    source: str, root: Path, *, download: bool, url: str | None
) -> tuple[list[str], list[Item], list[Item]]:
    """Return labels, training and test images of a set below `root`.

    With `download`, what is missing is fetched from `url` (the authors' address without it) into `root`. Raises
    `DataError` naming the file that is missing or damaged.
    """
    original = ORIGINALS[source]
    address = (url or original.url).rstrip("/") + "/"
    if original.archive:
        labels, train, test = _cifar(source, _archive(root, original, address, download))
    else:
        labels, train, test = _mnist(source, root, address, download)
    return labels, list(array_items(*train, f"{source} train")), list(array_items(*test, f"{source} test"))


def fetch(address: str, path: Path, md5: str | None = None) -> None:
    """Download a file whole or not at all. Raises `DataError`; an MD5 that differs keeps nothing."""
    if not address.startswith(("https://", "http://", "file://")):
        raise DataError(f"{address} is not a http, https or file address")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(address, timeout=60) as response, open(temporary, "wb") as handle:  # noqa: S310 (checked above)
            while chunk := response.read(1 << 20):
                digest.update(chunk)
                handle.write(chunk)
        if md5 and digest.hexdigest() != md5:
            raise DataError(f"{address} has MD5 {digest.hexdigest()}, expected {md5}; nothing was kept")
        temporary.replace(path)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(f"{address} cannot be downloaded: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _archive(root: Path, original: Original, address: str, download: bool) -> dict[str, bytes]:
    """Return the members of the archive, or of the folder that it unpacks to, by their base names."""
    assert original.archive is not None
    folder = root / {"cifar-10": "cifar-10-batches-py"}.get(original.archive[:8], "cifar-100-python")
    if folder.is_dir():
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    path = root / original.archive
    if not path.exists():
        if not download:
            raise DataError(f"neither {path} nor {folder} exists; put one there, or set data.download=true")
        fetch(address + original.archive, path, original.md5 if address == original.url else None)
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if m.isfile()]
            return {Path(m.name).name: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a readable archive: {error}") from None


def _cifar(source: str, files: dict[str, bytes]) -> tuple[list[str], Arrays, Arrays]:
    hundred = source == "cifar100"
    key, names = (b"fine_labels", "fine_label_names") if hundred else (b"labels", "label_names")
    meta = _unpickle(files, "meta" if hundred else "batches.meta")
    labels = [str(_text(name)) for name in meta[names.encode()]]
    batches = ["train"] if hundred else [f"data_batch_{n}" for n in range(1, 6)]
    test = ["test"] if hundred else ["test_batch"]
    return labels, _cifar_part(files, batches, key), _cifar_part(files, test, key)


def _cifar_part(files: dict[str, bytes], names: list[str], key: bytes) -> Arrays:
    parts = [_unpickle(files, name) for name in names]
    pixels = np.concatenate([np.asarray(part[b"data"], np.uint8) for part in parts])
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.concatenate([np.asarray(part[key], np.int64) for part in parts])


class _ArrayUnpickler(pickle.Unpickler):
    """Make numpy arrays and nothing else: a pickle can otherwise run any code."""

    ALLOWED = frozenset(
        {("_reconstruct", "multiarray"), ("ndarray", "numpy"), ("dtype", "numpy"), ("encode", "_codecs")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (name, module.rpartition(".")[2]) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which an image archive has no use for")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(files: dict[str, bytes], name: str) -> dict[bytes, Any]:
    if name not in files:
        raise DataError(f"the CIFAR archive lacks {name}; it holds {', '.join(sorted(files)) or 'nothing'}")
    try:
        values = _ArrayUnpickler(io.BytesIO(files[name]), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, ImportError, IndexError, TypeError) as error:
        raise DataError(f"{name} of the CIFAR archive cannot be read: {error}") from None
    return {key if isinstance(key, bytes) else str(key).encode(): value for key, value in values.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _mnist(source: str, root: Path, address: str, download: bool) -> tuple[list[str], Arrays, Arrays]:
    arrays = [read_idx(_idx_file(root, name, address, download)) for name in _MNIST_FILES]
    labels = list(_FASHION) if source == "fashion-mnist" else [str(digit) for digit in range(10)]
    for images, targets in (arrays[:2], arrays[2:]):
        if images.ndim != 3 or targets.ndim != 1 or len(images) != len(targets):
            raise DataError(f"{root}: images of shape {images.shape} do not fit labels of shape {targets.shape}")
    return labels, (arrays[0], arrays[1].astype(np.int64)), (arrays[2], arrays[3].astype(np.int64))


def _idx_file(root: Path, name: str, address: str, download: bool) -> Path:
    """Find `name` or `name.gz` in the root or in `raw/` below it; download it where allowed."""
    for folder in (root, root / "raw"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    if not download:
        raise DataError(f"{root / name}(.gz) does not exist; put it there, or set data.download=true")
    fetch(f"{address}{name}.gz", root / f"{name}.gz")
    return root / f"{name}.gz"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not (http://yann.lecun.com/exdb/mnist/). Raises `DataError`."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} is not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    body = raw[4 + 4 * raw[3] :]
    if len(body) != np.prod(shape, dtype=np.int64):
        raise DataError(f"{path} says {' x '.join(map(str, shape))} but holds {len(body)} bytes")
    return np.frombuffer(body, np.uint8).reshape(shape)
