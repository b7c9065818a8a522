"""What a sealed file says about itself in its ONNX metadata, so that a file in the wrong place is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from bundle.errors import BundleError
from bundle.manifest import Manifest

LABELS_KEY, TEMPERATURE_KEY, VARIANT_KEY = "clearsight.labels", "clearsight.temperature", "clearsight.variant"


@dataclass(frozen=True, slots=True)
class Stamp:
    """The facts that a graph shares with `bundle.json`: labels in index order, variant, temperature."""

    labels: tuple[str, ...]
    variant: str = "fp32"
    temperature: float = 1.0

    def metadata(self) -> dict[str, str]:
        """Return the metadata properties to write into the ONNX file."""
        return {
            LABELS_KEY: labels_digest(self.labels),
            TEMPERATURE_KEY: repr(self.temperature),
            VARIANT_KEY: self.variant,
        }


def labels_digest(labels: tuple[str, ...]) -> str:
    """Return the SHA-256 of the labels in index order."""
    return hashlib.sha256(json.dumps(list(labels)).encode()).hexdigest()


def check_stamp(manifest: Manifest, variant: str, metadata: Mapping[str, str], file: str) -> None:
    """Raise `BundleError` where a graph was sealed with other labels, as another variant or another temperature."""
    expected = Stamp(manifest.labels, variant, manifest.temperature).metadata()
    said = {key: metadata.get(key) for key in expected}
    if said[LABELS_KEY] != expected[LABELS_KEY]:
        raise BundleError(f"{file} was sealed with other labels, or another order of them, than bundle.json lists")
    if said[VARIANT_KEY] != variant:
        raise BundleError(f"{file} was sealed as {said[VARIANT_KEY]} but bundle.json calls it {variant}")
    if said[TEMPERATURE_KEY] != expected[TEMPERATURE_KEY]:
        raise BundleError(f"{file} was sealed with temperature {said[TEMPERATURE_KEY]}, not {manifest.temperature!r}")
