"""Small made-up CIFAR and MNIST originals, in the files that their authors publish."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile

import numpy as np


def idx(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(root, *, zipped):
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (40, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.arange(40, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
    }
    for name, array in arrays.items():
        raw = idx(array)
        (root / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)
    return arrays


def cifar_files(classes=10):
    rng, names = np.random.default_rng(0), [f"class{n}" for n in range(classes)]
    fine = classes == 100
    key, meta = (b"fine_labels", b"fine_label_names") if fine else (b"labels", b"label_names")

    def batch(count):
        return {b"data": rng.integers(0, 256, (count, 3072), np.uint8), key: [n % classes for n in range(count)]}

    parts = {"train": batch(30), "test": batch(10)}
    if not fine:
        parts = {**{f"data_batch_{n}": batch(6) for n in range(1, 6)}, "test_batch": batch(10)}
    return {"meta" if fine else "batches.meta": {meta: [n.encode() for n in names]}, **parts}


def write_cifar(path, files, folder):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, value in files.items():
            raw = pickle.dumps(value, protocol=2)
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
