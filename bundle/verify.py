"""Prove a bundle: files, graphs against `bundle.json`, and the golden images through onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bundle import session
from bundle.errors import BundleError, ImageError
from bundle.integrity import check_standalone
from bundle.manifest import Manifest, Provider, VariantName
from bundle.preprocess import preprocess
from bundle.stamp import check_stamp
from bundle.store import Bundle, Store

Reader = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Replay:
    """The golden images through one variant: the largest difference and the tolerance it kept."""

    variant: VariantName
    images: int
    difference: float
    tolerance: float


def verify(store: Store, bundle: Bundle) -> list[Replay]:
    """Check every file, every graph and every golden image of a bundle. Raises `BundleError` with the first fault."""
    store.check_files(bundle)
    return prove(bundle.manifest, bundle.read)


def prove(manifest: Manifest, read: Reader) -> list[Replay]:
    """Check graphs and golden images of a bundle whose files `read(name)` returns. Raises `BundleError`."""
    rows, expected = golden_rows(manifest, read)
    replays = [_prove_variant(manifest, name, read, rows, expected) for name in manifest.variants]
    if manifest.explain:
        _prove_explain(manifest, read(manifest.explain), rows)
    return replays


def golden_rows(manifest: Manifest, read: Reader) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return the golden images as the graph takes them and the probabilities that they must give."""
    rows = []
    for image in manifest.golden.images:
        try:
            pixels = preprocess(read(image.file), manifest.preprocessing).pixels
        except ImageError as error:
            raise BundleError(f"golden image {image.file}: {error.detail}") from None
        if pixels.shape != tuple(manifest.input.shape[1:]):
            raise BundleError(f"golden image {image.file} gives {pixels.shape}, the graph takes {manifest.input.shape}")
        rows.append(pixels)
    return np.stack(rows), np.array([image.probabilities for image in manifest.golden.images], np.float32)


def compare_golden(
    manifest: Manifest,
    variant: VariantName,
    provider: Provider,
    probabilities: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
) -> float:
    """Return the largest difference to the golden probabilities. Raises `BundleError` naming the image that is off."""
    tolerance = manifest.golden.tolerance[variant].get(provider)
    if tolerance is None:
        raise BundleError(f"bundle.json has no golden tolerance for {variant} on {provider}")
    differences = np.abs(probabilities - expected).max(axis=1)
    worst = int(np.nanargmax(np.where(np.isfinite(differences), differences, np.inf)))
    name = manifest.golden.images[worst].file
    if not differences[worst] <= tolerance:
        raise BundleError(
            f"{variant} on {provider}: golden image {name} differs by {differences[worst]:.3g} in a probability;"
            f" the tolerance is {tolerance:g}"
        )
    for index in np.flatnonzero(probabilities.argmax(axis=1) != expected.argmax(axis=1)):
        got, wanted = manifest.labels[probabilities[index].argmax()], manifest.labels[expected[index].argmax()]
        name = manifest.golden.images[index].file
        raise BundleError(f"{variant} on {provider}: golden image {name} gives {got!r} instead of {wanted!r}")
    return float(differences[worst])


def _prove_variant(
    manifest: Manifest, name: VariantName, read: Reader, rows: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]
) -> Replay:
    file = manifest.variants[name].file
    raw = read(file)
    check_standalone(raw, file)
    opened = session.open_session(raw, file)
    _check_specs(manifest, opened, file)
    check_stamp(manifest, name, session.stamps(opened), file)
    # A lone image takes another path through some kernels than a full batch.
    difference = max(
        compare_golden(manifest, name, "cpu", session.run(opened, rows, batch_size=size)["probabilities"], expected)
        for size in (len(rows), 1)
    )
    return Replay(name, len(rows), difference, manifest.golden.tolerance[name]["cpu"])


def _check_specs(manifest: Manifest, opened: session.Session, file: str) -> None:
    taken, given = session.input_spec(opened), session.output_specs(opened)
    if taken != manifest.input:
        raise BundleError(f"{file} takes {taken.describe()} but bundle.json says {manifest.input.describe()}")
    if given != manifest.outputs:
        said, listed = (", ".join(spec.describe() for spec in specs) for specs in (given, manifest.outputs))
        raise BundleError(f"{file} gives {said} but bundle.json says {listed}")


def _prove_explain(manifest: Manifest, raw: bytes, rows: npt.NDArray[np.uint8]) -> None:
    assert manifest.explain
    check_standalone(raw, manifest.explain)
    maps = session.run(session.open_session(raw, manifest.explain), rows[:1])
    if "cam" not in maps or maps["cam"].ndim != 4 or maps["cam"].shape[1] != len(manifest.labels):
        raise BundleError(f"{manifest.explain} must give 'cam' [batch, {len(manifest.labels)}, height, width]")
