"""Let an import check itself against what its maker knows: labelled images, or inputs with their outputs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle import session
from bundle.errors import BundleError
from bundle.front import Front
from bundle.manifest import Preprocessing
from bundle.preprocess import preprocess

WHOLE_TOLERANCE, HALF_TOLERANCE = 0.02, 0.3
"""How far from a whole number an un-normalised pixel may lie, in levels of 0..255: float32 and float16 inputs."""


def check_image(raw: bytes, image: bytes, label: str, labels: tuple[str, ...], recipe: Preprocessing) -> float:
    """Return the probability of `label` for an encoded image. Raises `BundleError` where another label wins."""
    if label not in labels:
        raise BundleError(f"there is no label {label!r} to check for")
    rows = preprocess(image, recipe).pixels[None]
    probabilities = session.run(session.open_session(raw), rows)["probabilities"][0]
    best = int(probabilities.argmax())
    if labels[best] != label:
        wanted = probabilities[labels.index(label)]
        raise BundleError(
            f"the check image should be {label!r} ({wanted:.3f}) but is {labels[best]!r} ({probabilities[best]:.3f});"
            " are layout, color, scale, mean and the order of labels right?"
        )
    return float(probabilities[best])


def check_arrays(raw: bytes, path: Path, front: Front, output: str, tolerance: float = 1e-3) -> float:
    """Compare with an .npz of `inputs` and `outputs`; returns the largest difference.

    `inputs` are uint8 images [n, height, width, channels], or what the original graph takes: normalised floats, from
    which the pixels are worked out again; that they come out whole proves scale, mean, deviation, layout and range.
    `outputs` [n, classes] are the original's. Raises `BundleError`.
    """
    inputs, outputs = _read(path)
    images = inputs.dtype == np.uint8 and inputs.shape[-1] == front.channels
    rows = inputs.astype(np.uint8) if images else _pixels(inputs, front)
    found = session.run(session.open_session(raw), rows)[output]
    if found.shape != outputs.reshape(len(outputs), -1).shape:
        raise BundleError(f"{path.name}: outputs are {outputs.shape}, the graph gives {found.shape}")
    difference = float(np.abs(found - outputs.reshape(found.shape)).max())
    if not difference <= tolerance:
        raise BundleError(f"{path.name}: {output} differ by {difference:.3g}; the tolerance is {tolerance:g}")
    return difference


def _read(path: Path) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.floating]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["inputs"], arrays["outputs"]
    except KeyError:
        raise BundleError(f"{path.name} must hold the arrays 'inputs' and 'outputs'") from None
    except (OSError, ValueError, zipfile.BadZipFile):
        raise BundleError(f"{path} is not a readable .npz file of plain arrays") from None


def _pixels(inputs: npt.NDArray[np.generic], front: Front) -> npt.NDArray[np.uint8]:
    """Undo layout, colour order and normalisation. Raises `BundleError` where that does not give whole 0..255."""
    if inputs.ndim != 4:
        raise BundleError(f"inputs have shape {inputs.shape}; an image batch has 4 dimensions")
    wide = (inputs.transpose(0, 2, 3, 1) if front.layout == "NCHW" else inputs).astype(np.float64)
    if wide.shape[-1] != front.channels:
        raise BundleError(
            f"inputs have shape {inputs.shape}, which is not {front.layout} with {front.channels} channels"
        )
    pixels = (wide * np.array(front.std) + np.array(front.mean)) * front.divisor
    whole = np.rint(pixels)
    worst = float(np.abs(pixels - whole).max())
    if (
        worst > (HALF_TOLERANCE if inputs.dtype == np.float16 else WHOLE_TOLERANCE)
        or whole.min() < 0
        or whole.max() > 255
    ):
        raise BundleError(
            f"undoing the normalisation of inputs gives {pixels.min():.4g} to {pixels.max():.4g}, up to {worst:.2g} off"
            " whole pixel values 0..255: scale, mean or deviation do not fit, or the inputs were resized as floats"
        )
    rgb = whole[..., ::-1] if front.color == "BGR" else whole
    return np.ascontiguousarray(rgb, np.uint8)
