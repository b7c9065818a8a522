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
    known = provider if provider in ("cpu", "cuda") else "cpu"
    fp32 = _milliseconds_per_image(manifest, "fp32", known)  # type: ignore[arg-type]
    faster: list[tuple[float, VariantName]] = []
    for name in manifest.variants:
        cost = _milliseconds_per_image(manifest, name, known)  # type: ignore[arg-type]
        if name == "fp32" or (name, provider) in NEVER or cost is None or fp32 is None or cost >= fp32:
            continue
        if _as_good(manifest, name, known, max_loss):  # type: ignore[arg-type]
            faster.append((cost, name))
    return [*(name for _, name in sorted(faster)), "fp32"]


def unmeasured(manifest: Manifest, provider: str, wanted: str, max_loss: float) -> list[VariantName]:
    """List the variants as good as fp32 whose speed on a CUDA device the bundle does not know; only for `auto`.

    Bundles are measured where they are exported, and that is seldom where they are served.
    """
    if wanted != "auto" or provider != "cuda":
        return []
    return [
        name
        for name in manifest.variants
        if name != "fp32"
        and (name, provider) not in NEVER
        and _milliseconds_per_image(manifest, name, "cuda") is None
        and _as_good(manifest, name, "cuda", max_loss)
    ]


def _as_good(manifest: Manifest, name: VariantName, provider: Provider, max_loss: float) -> bool:
    accuracy = manifest.variants[name].accuracy
    proven = accuracy is not None and accuracy.difference >= -max_loss
    return proven and provider in manifest.golden.tolerance.get(name, {})


def _milliseconds_per_image(manifest: Manifest, name: VariantName, provider: Provider) -> float | None:
    measured = manifest.variants[name].latency_ms.get(provider, {})
    return min((ms / int(size) for size, ms in measured.items()), default=None)
