"""`python -m bundle import`: what must be said about a foreign ONNX file, as command-line options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from bundle.crosscheck import check_arrays, check_image
from bundle.errors import BundleError
from bundle.front import Description, Front
from bundle.manifest import Interpolation, Preprocessing
from bundle.preprocess import preprocess
from bundle.store import Store, read_bounded

MAX_TEXT_BYTES = 16 * 2**20
MAX_GOLDEN_BYTES = 2 * 2**20


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options of `import`."""
    command.add_argument("model", type=Path, metavar="MODEL.onnx")
    command.add_argument("--name", required=True, help="what the model will be called")
    command.add_argument("--labels", type=Path, required=True, help="text with a label a line, or a JSON list")
    command.add_argument("--layout", choices=("NCHW", "NHWC"), required=True, help="order of the input's dimensions")
    command.add_argument("--color", choices=("RGB", "BGR", "GREY"), required=True, help="order of the channels")
    command.add_argument("--scale", default="1", help="what pixels 0..255 are multiplied with first, as 1/255 (1)")
    command.add_argument("--mean", type=_numbers, default=(0.0,), help="subtracted next, in the order of --color (0)")
    command.add_argument("--std", type=_numbers, default=(1.0,), help="divided by last, in the order of --color (1)")
    command.add_argument("--resize", required=True, help="shorter:256, stretch:256, stretch:HxW or none")
    command.add_argument("--crop", type=_size, help="centre crop, 224 or HxW (none)")
    command.add_argument("--interpolation", choices=get_args(Interpolation), default="bilinear")
    command.add_argument("--jpeg-draft", action="store_true", help="decode large JPEGs at a reduced scale")
    command.add_argument("--orientation", choices=("exif", "ignore"), default="exif", help="turn photos as EXIF says")
    command.add_argument("--output", choices=("logits", "probabilities"), required=True, help="what the output is")
    command.add_argument("--output-name", help="which output, where several have as many classes as labels")
    command.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="IMAGE=LABEL|FILE.npz",
        help="an image and its label, or an .npz with `inputs` and `outputs`; repeat for more",
    )
    command.add_argument("--golden", action="append", type=Path, default=[], help="an image to keep as proof; repeat")


def run(options: argparse.Namespace) -> Iterator[str]:
    """Import by the options and publish, yielding what was found; a first version becomes champion.

    Raises `BundleError`, before anything is published.
    """
    from bundle.importer import import_model  # needs the onnx library, which a serving machine does not have

    description = describe(options)
    draft = import_model(options.model, description, _golden(options, description.preprocessing))
    for text in options.check:
        yield _check(text, draft.variants["fp32"].raw, description)
    store = Store(options.store)
    bundle = draft.publish(store)
    if store.channels(description.name).champion is None:
        store.promote(description.name, bundle.manifest.version)
    yield f"{description.name}/{bundle.manifest.version} {bundle.digest}"


def describe(options: argparse.Namespace) -> Description:
    """Turn the options into what the importer takes. Raises `BundleError` naming the option."""
    channels = 1 if options.color == "GREY" else 3
    front = Front(
        options.layout,
        options.color,
        _divisor(options.scale),
        _per_channel(options.mean, channels, "--mean"),
        _per_channel(options.std, channels, "--std"),
    )
    if not all(front.std):
        raise BundleError("--std must not hold 0")
    kind, size = _resize(options.resize)
    recipe = {
        "resize": kind,
        "resize_size": size,
        "crop_size": options.crop,
        "interpolation": options.interpolation,
        "color": "grey" if options.color == "GREY" else "rgb",
        "orientation": options.orientation,
        "alpha_background": (255, 255, 255),
        "jpeg_draft": options.jpeg_draft,
    }
    try:
        preprocessing = Preprocessing.model_validate(recipe)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
        raise BundleError(f"--resize and --crop: {first.removeprefix('Value error, ')}") from None
    labels = read_labels(options.labels)
    return Description(options.name, labels, front, preprocessing, options.output, options.output_name)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read labels in index order: a line each, or a JSON list. Raises `BundleError` where one repeats."""
    text = _read(path).decode("utf-8", errors="replace")
    try:
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except ValueError as error:
        raise BundleError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise BundleError(f"{path.name} must hold a list of labels in index order")
    labels = [label.strip() for label in found if label.strip()]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            raise BundleError(
                f"{path.name}: {label!r} stands at {labels.index(label)} and {index}; make the labels distinct"
            )
    return tuple(labels)


def _check(text: str, raw: bytes, description: Description) -> str:
    if text.endswith(".npz"):
        difference = check_arrays(raw, Path(text), description.front, description.output)
        return f"check {Path(text).name}: {description.output} within {difference:.2g}"
    path, label = _image_and_label(text)
    probability = check_image(raw, _read(path), label, description.labels, description.preprocessing)
    return f"check {path.name}: {label} with {probability:.3f}"


def _golden(options: argparse.Namespace, recipe: Preprocessing) -> dict[str, bytes]:
    checked = [_image_and_label(text)[0] for text in options.check if not text.endswith(".npz")]
    found = {}
    for number, path in enumerate(dict.fromkeys([*options.golden, *checked])):
        raw = _read(path)
        if len(raw) > MAX_GOLDEN_BYTES:
            if path in options.golden:
                raise BundleError(f"{path.name} is larger than the {MAX_GOLDEN_BYTES} bytes of a golden image")
            continue
        found[f"{number:02d}.{preprocess(raw, recipe).info.format.lower()}"] = raw
    return found


def _image_and_label(text: str) -> tuple[Path, str]:
    path, equals, label = text.rpartition("=")
    if not equals or not path or not label:
        raise BundleError(f"--check {text}: expected IMAGE=LABEL or a file ending in .npz")
    return Path(path), label


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path.resolve(), MAX_TEXT_BYTES)
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist") from None


def _divisor(text: str) -> float:
    """Read a scale such as 1/255, 1/127.5 or 0.017 and return its inverse, exact where the text is a fraction."""
    above, slash, below = text.partition("/")
    try:
        divisor = Fraction(below) / Fraction(above) if slash else 1 / Fraction(above)
        if divisor <= 0:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise BundleError(f"--scale {text}: expected a number above 0, such as 1/255 or 0.017") from None
    return float(divisor)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _per_channel(values: tuple[float, ...], channels: int, option: str) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise BundleError(f"{option} holds {len(values)} numbers for {channels} channels")
    return values * channels if len(values) == 1 else values


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _resize(text: str) -> tuple[str, tuple[int, int] | None]:
    kind, _, size = text.partition(":")
    names = {"shorter": "shorter_side", "stretch": "stretch", "none": "none"}
    if kind not in names or bool(size) != (kind != "none"):
        raise BundleError(f"--resize {text}: expected shorter:256, stretch:256, stretch:HxW or none")
    try:
        return names[kind], _size(size) if size else None
    except ValueError:
        raise BundleError(f"--resize {text}: {size!r} is not a number of pixels") from None
