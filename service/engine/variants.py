"""Which precision of a bundle runs: the fastest that the bundle measured and that is as good as fp32."""

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
    known = provider if provider in ("cpu", "cuda") else "cpu"
    fp32 = _milliseconds_per_image(manifest, "fp32", known)  # type: ignore[arg-type]
    faster: list[tuple[float, VariantName]] = []
    for name, variant in manifest.variants.items():
        cost = _milliseconds_per_image(manifest, name, known)  # type: ignore[arg-type]
        if name == "fp32" or (name, provider) in NEVER or cost is None or fp32 is None or cost >= fp32:
            continue
        proven = variant.accuracy is not None and variant.accuracy.difference >= -max_loss
        if proven and known in manifest.golden.tolerance.get(name, {}):
            faster.append((cost, name))
    return [*(name for _, name in sorted(faster)), "fp32"]


def _milliseconds_per_image(manifest: Manifest, name: VariantName, provider: Provider) -> float | None:
    measured = manifest.variants[name].latency_ms.get(provider, {})
    return min((ms / int(size) for size, ms in measured.items()), default=None)
