"""What changed between two bundles: labels, preprocessing, accuracy by class, and the images they disagree on."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bundle import session
from bundle.errors import ImageError
from bundle.manifest import Manifest
from bundle.preprocess import Limits, preprocess
from bundle.store import Bundle, read_bounded

THUMBNAIL = 96
MAX_IMAGES = 10_000


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An image to which two bundles give different labels, each with its probability."""

    name: str
    image: bytes
    first: tuple[str, float]
    second: tuple[str, float]


def differences(first: Manifest, second: Manifest) -> Iterator[str]:
    """Yield a line for each difference that the two `bundle.json` show."""
    yield from _labels(first.labels, second.labels)
    ours, theirs = first.preprocessing.model_dump(), second.preprocessing.model_dump()
    yield from (f"preprocessing {key}: {ours[key]} -> {theirs[key]}" for key in ours if ours[key] != theirs[key])
    for what in ("architecture", "parameters", "opset", "producer"):
        before, after = getattr(first.graph, what), getattr(second.graph, what)
        if before != after:
            yield f"{what}: {before} -> {after}"
    if first.temperature != second.temperature:
        yield f"temperature: {first.temperature:g} -> {second.temperature:g}"
    if list(first.variants) != list(second.variants):
        yield f"variants: {', '.join(first.variants)} -> {', '.join(second.variants)}"
    yield from _metrics(first, second)


def disagreements(first: Bundle, second: Bundle, images: list[tuple[str, bytes]]) -> Iterator[Disagreement]:
    """Yield the images that the fp32 graphs label differently; unreadable ones are stepped over."""
    graphs = [session.open_session(b.read(b.manifest.variants["fp32"].file)) for b in (first, second)]
    for name, raw in images:
        found = []
        for bundle, graph in zip((first, second), graphs, strict=True):
            try:
                rows = preprocess(raw, bundle.manifest.preprocessing).pixels[None]
            except ImageError:
                break
            row = session.run(graph, rows)["probabilities"][0]
            found.append((bundle.manifest.labels[int(row.argmax())], float(row.max())))
        if len(found) == 2 and found[0][0] != found[1][0]:
            yield Disagreement(name, raw, found[0], found[1])


def images_of(first: Bundle, second: Bundle, folder: Path | None) -> list[tuple[str, bytes]]:
    """Return the images to compare on: a folder's files, or else the golden images of both bundles."""
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())[:MAX_IMAGES]
        return [(str(path.relative_to(folder)), read_bounded(path.resolve(), Limits().max_bytes)) for path in paths]
    found = {}
    for bundle in (first, second):
        for image in bundle.manifest.golden.images:
            raw = bundle.read(image.file)
            found[raw] = f"{bundle.manifest.name}/{bundle.manifest.version}/{image.file}"
    return [(name, raw) for raw, name in found.items()]


def page(first: Manifest, second: Manifest, lines: list[str], found: list[Disagreement]) -> str:
    """Return the comparison as one HTML page with a thumbnail for every disagreement."""
    title = html.escape(f"{first.name}/{first.version} against {second.name}/{second.version}")
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    cells = "".join(
        f'<figure><img alt="{html.escape(d.name)}" src="data:image/png;base64,{_thumbnail(d.image)}">'
        f"<figcaption>{html.escape(d.name)}<br>{html.escape(d.first[0])} {d.first[1]:.2f} &rarr; "
        f"{html.escape(d.second[0])} {d.second[1]:.2f}</figcaption></figure>"
        for d in found
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px sans-serif;margin:2em}figure{display:inline-block;margin:8px;font-size:12px}</style>"
        f"<h1>{title}</h1><ul>{items}</ul><h2>{len(found)} disagreements</h2>{cells}</html>\n"
    )


def _labels(first: tuple[str, ...], second: tuple[str, ...]) -> Iterator[str]:
    if first == second:
        return
    gone, new = [x for x in first if x not in second], [x for x in second if x not in first]
    yield f"labels: {len(first)} -> {len(second)}"
    if gone:
        yield f"labels gone: {', '.join(gone)}"
    if new:
        yield f"labels new: {', '.join(new)}"
    if not gone and not new:
        yield "labels: the same ones in another order"


def _metrics(first: Manifest, second: Manifest) -> Iterator[str]:
    if first.metrics is None or second.metrics is None:
        return
    a, b = first.metrics, second.metrics
    yield f"measured on: {a.dataset} {a.split}, n {a.n} -> {b.dataset} {b.split}, n {b.n}"
    for what in ("top1", "top5", "loss", "ece"):
        before, after = getattr(a, what), getattr(b, what)
        yield f"{what}: {before:.4f} -> {after:.4f} ({after - before:+.4f})"
    for label in first.labels:
        if label in a.per_class and label in b.per_class:
            before, after = a.per_class[label].recall, b.per_class[label].recall
            if before != after:
                yield f"recall of {label}: {before:.4f} -> {after:.4f} ({after - before:+.4f})"


def _thumbnail(raw: bytes) -> str:
    with Image.open(io.BytesIO(raw)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        stretched = small if max(small.size) >= THUMBNAIL else _enlarged(small)
    stream = io.BytesIO()
    stretched.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _enlarged(image: Image.Image) -> Image.Image:
    """Enlarge a tiny image by a whole number, so that its pixels stay what they are."""
    pixels = np.asarray(image)
    times = max(1, THUMBNAIL // max(image.size))
    return Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
