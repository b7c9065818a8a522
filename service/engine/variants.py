"""Which precision of a bundle runs: the fastest that is as good as fp32, measured by the bundle or by the engine."""

from __future__ import annotations

from bundle.manifest import Manifest, Provider, VariantName

NEVER = {("int8", "cuda")}
"""Pairs that are not tried: onnxruntime runs quantised nodes on the CPU between copies from and to the device."""


def rank_variants(manifest: Manifest, provider: str, wanted: str, max_loss: float) -> list[VariantName]:
    """List the variants to try, best first; fp32 comes last because it always may.

    `wanted` names one, or is `auto`: then a variant counts if its accuracy was measured and lost at most `max_loss`,
    if it has a golden tolerance for the provider, and if it was measured to be faster than fp32 there.
    """
    if wanted != "auto":
        named = [name for name in manifest.variants if name == wanted and (name, provider) not in NEVER]
        return [*named, *([] if named == ["fp32"] else ["fp32"])]  # type: ignore[list-item]
    known: Provider = "cuda" if provider == "cuda" else "cpu"
    fp32 = _milliseconds_per_image(manifest, "fp32", known)
    costs = [(_milliseconds_per_image(manifest, name, known), name) for name in _as_good(manifest, known, max_loss)]
    faster = [(cost, name) for cost, name in costs if cost is not None and fp32 is not None and cost < fp32]
    return [*(name for _, name in sorted(faster)), "fp32"]


def unmeasured(manifest: Manifest, provider: str, wanted: str, max_loss: float) -> list[VariantName]:
    """List the variants as good as fp32 whose speed on a CUDA device the bundle does not know; only for `auto`.

    Bundles are measured where they are exported, and that is seldom where they are served.
    """
    if wanted != "auto" or provider != "cuda":
        return []
    good = _as_good(manifest, "cuda", max_loss)
    return [name for name in good if _milliseconds_per_image(manifest, name, "cuda") is None]


def _as_good(manifest: Manifest, provider: Provider, max_loss: float) -> list[VariantName]:
    """List the variants besides fp32 that may run there, lost little accuracy, and can prove themselves there."""
    return [
        name
        for name, variant in manifest.variants.items()
        if name != "fp32"
        and (name, provider) not in NEVER
        and variant.accuracy is not None
        and variant.accuracy.difference >= -max_loss
        and provider in manifest.golden.tolerance.get(name, {})
    ]


def _milliseconds_per_image(manifest: Manifest, name: VariantName, provider: Provider) -> float | None:
    measured = manifest.variants[name].latency_ms.get(provider, {})
    return min((ms / int(size) for size, ms in measured.items()), default=None)
