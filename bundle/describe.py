"""A bundle in words: what `python -m bundle list` and `inspect` print, read from `bundle.json` alone."""

from __future__ import annotations

from collections.abc import Iterator

from bundle.manifest import Manifest, Metrics, Preprocessing, Variant
from bundle.store import Bundle, Channels, Store


def listing(store: Store) -> Iterator[str]:
    """Yield one line per version of every model: channel, size, accuracy."""
    for name in store.names():
        channels = store.channels(name)
        for version in store.versions(name):
            manifest = store.open(name, version).manifest
            top1 = f"top-1 {manifest.metrics.top1:.4f}" if manifest.metrics else "not measured"
            role = ", ".join(roles(channels, version))
            yield f"{name}/{version}  {role or '-':<10}  {top1:<13}  {'+'.join(manifest.variants)}  {manifest.created}"


def roles(channels: Channels, version: int) -> list[str]:
    """List what production uses a version for."""
    found = ["champion"] if channels.champion == version else []
    if channels.canary and channels.canary.version == version:
        found.append(f"canary {channels.canary.weight:.0%}")
    return [*found, "shadow"] if channels.shadow == version else found


def inspection(bundle: Bundle) -> Iterator[str]:
    """Yield the lines of `inspect`: everything that the export recorded, for people."""
    m = bundle.manifest
    yield f"{m.name}/{m.version}  {bundle.digest}"
    yield f"created        {m.created}, {m.lineage.kind}" + (f" from {m.lineage.parent}" if m.lineage.parent else "")
    yield f"architecture   {m.graph.architecture}, {m.graph.parameters:,} parameters"
    yield f"graph          opset {m.graph.opset}, made by {m.graph.producer}"
    yield f"input          {m.input.describe()}"
    for index, spec in enumerate(m.outputs):
        yield f"{'outputs' if not index else '':<15}{spec.describe()}"
    yield f"preprocessing  {_preprocessing(m.preprocessing)}"
    yield f"labels         {len(m.labels)}: {_shortened(m.labels)}"
    yield f"temperature    {m.temperature:.4f}"
    for name, variant in m.variants.items():
        yield f"{name:<15}{_variant(m, variant)}"
    for name, dropped in m.dropped.items():
        yield f"{name:<15}dropped: {dropped.reason}"
    yield f"explain        {m.explain or 'none'}"
    yield from _metrics(m.metrics)
    if m.parity:
        p = m.parity
        yield f"parity         logits within {p.max_logit_difference:.2g} of PyTorch (tolerance {p.tolerance:g})"
    if m.verdict:
        yield f"verdict        {m.verdict.outcome}: {m.verdict.reason}"


def _preprocessing(p: Preprocessing) -> str:
    steps = [p.resize if not p.resize_size else f"{p.resize} {p.resize_size[0]}x{p.resize_size[1]} ({p.interpolation})"]
    if p.crop_size:
        steps.append(f"centre crop {p.crop_size[0]}x{p.crop_size[1]}")
    steps += [p.color, f"orientation {p.orientation}", "alpha over rgb({}, {}, {})".format(*p.alpha_background)]
    return ", ".join([*steps, "JPEG draft"] if p.jpeg_draft else steps)


def _shortened(labels: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (", …" if len(labels) > most else "")


def _variant(m: Manifest, variant: Variant) -> str:
    parts = [variant.file, f"{m.files[variant.file].bytes / 1e6:.2f} MB"]
    if variant.accuracy:
        a = variant.accuracy
        parts.append(f"top-1 {a.top1:.4f}" + (f" ({a.difference:+.4f})" if a.difference_interval else ""))
    for provider, by_size in variant.latency_ms.items():
        shown = ", ".join(f"{size}: {ms:.2f}" for size, ms in by_size.items())
        parts.append(f"ms by batch on {provider} {shown}")
    if "cuda" not in variant.latency_ms and variant.latency_ms:
        parts.append("cuda not measured")
    return ", ".join(parts)


def _metrics(metrics: Metrics | None) -> Iterator[str]:
    if metrics is None:
        yield "metrics        none: no held-out images were there to measure it"
        return
    low, high = metrics.top1_interval
    yield f"metrics        {metrics.dataset} {metrics.split}, n {metrics.n}"
    yield f"               top-1 {metrics.top1:.4f} ({low:.4f} to {high:.4f}), top-5 {metrics.top5:.4f}"
    yield f"               loss {metrics.loss:.4f}, calibration error {metrics.ece:.4f}"
    worst = sorted(metrics.per_class.items(), key=lambda item: item[1].recall)[:3]
    yield "               lowest recall: " + ", ".join(f"{name} {c.recall:.3f}" for name, c in worst)
