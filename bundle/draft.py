"""A bundle in the making: everything that a version will hold, proved before any of it becomes visible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from bundle import session
from bundle.integrity import check_standalone
from bundle.manifest import (
    SCHEMA,
    Accuracy,
    Drift,
    Dropped,
    FileFact,
    FileName,
    Golden,
    GoldenImage,
    Graph,
    Lineage,
    Manifest,
    Metrics,
    Parity,
    Preprocessing,
    Provider,
    Variant,
    VariantName,
    Verdict,
)
from bundle.preprocess import preprocess
from bundle.store import Bundle, Store
from bundle.verify import prove

MODEL_FILES: dict[VariantName, FileName] = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}
EXPLAIN_FILE = "explain.onnx"
TOLERANCE: dict[VariantName, dict[Provider, float]] = {
    "fp32": {"cpu": 1e-4, "cuda": 5e-3},
    "fp16": {"cpu": 1e-2, "cuda": 1e-2},
    "int8": {"cpu": 2e-2},
}
"""Largest difference of a golden probability from fp32 on the CPU. int8 has none for CUDA: it never runs there."""


@dataclass(frozen=True, slots=True)
class SealedVariant:
    """A sealed graph's bytes with what was measured about it."""

    raw: bytes
    accuracy: Accuracy | None = None
    latency_ms: dict[Provider, dict[str, float]] = field(default_factory=dict)
    machine: str = "not measured"
    float_nodes: tuple[str, ...] = ()


@dataclass(slots=True)
class Draft:
    """The parts of a bundle. `golden` maps file names below golden/ to encoded images."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    graph: Graph
    variants: dict[VariantName, SealedVariant]
    golden: dict[str, bytes]
    lineage: Lineage
    dropped: dict[VariantName, Dropped] = field(default_factory=dict)
    temperature: float = 1.0
    explain: bytes | None = None
    metrics: Metrics | None = None
    parity: Parity | None = None
    drift: Drift | None = None
    verdict: Verdict | None = None
    tolerance: dict[VariantName, dict[Provider, float]] = field(default_factory=dict)
    extra_files: dict[str, bytes] = field(default_factory=dict)

    def publish(self, store: Store) -> Bundle:
        """Prove the draft and publish it as the model's next version; on any failure nothing is left behind.

        Raises `BundleError` naming the fault.
        """
        contents = self.contents()
        manifest_for = self._manifest_for(contents)
        facts = {name: FileFact(sha256="0" * 64, bytes=len(raw)) for name, raw in contents.items()}
        prove(manifest_for(1, facts), contents.__getitem__)
        with store.staging(self.name) as staged:
            for name, raw in contents.items():
                path = staged / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
            return store.publish(self.name, staged, manifest_for)

    def contents(self) -> dict[str, bytes]:
        """Return every file of the bundle except `bundle.json`."""
        files = {MODEL_FILES[variant]: sealed.raw for variant, sealed in self.variants.items()}
        if self.explain is not None:
            files[EXPLAIN_FILE] = self.explain
        return files | {f"golden/{name}": raw for name, raw in self.golden.items()} | self.extra_files

    def _manifest_for(self, contents: dict[str, bytes]) -> Callable[[int, dict[str, FileFact]], Manifest]:
        for file in [name for name in contents if name.endswith(".onnx")]:
            check_standalone(contents[file], file)
        opened = session.open_session(self.variants["fp32"].raw, MODEL_FILES["fp32"])
        taken, given, golden = session.input_spec(opened), session.output_specs(opened), self._golden(opened)
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

        def manifest_for(version: int, files: dict[str, FileFact]) -> Manifest:
            return Manifest(
                schema_=SCHEMA,
                name=self.name,
                version=version,
                created=created,
                labels=self.labels,
                preprocessing=self.preprocessing,
                input=taken,
                outputs=given,
                graph=self.graph,
                variants={name: _variant(name, sealed) for name, sealed in self.variants.items()},
                dropped=self.dropped,
                explain=EXPLAIN_FILE if self.explain is not None else None,
                temperature=self.temperature,
                metrics=self.metrics,
                golden=golden,
                parity=self.parity,
                drift=self.drift,
                lineage=self.lineage,
                verdict=self.verdict,
                files=files,
            )

        return manifest_for

    def _golden(self, opened: session.Session) -> Golden:
        rows = self._rows()
        expected = session.run(opened, rows, batch_size=1)["probabilities"]
        images = tuple(
            GoldenImage(file=f"golden/{name}", probabilities=tuple(min(1.0, max(0.0, float(p))) for p in row))
            for name, row in zip(self.golden, expected, strict=True)
        )
        return Golden(images=images, tolerance={v: dict(self.tolerance.get(v, TOLERANCE[v])) for v in self.variants})

    def _rows(self) -> npt.NDArray[np.uint8]:
        return np.stack([preprocess(raw, self.preprocessing).pixels for raw in self.golden.values()])


def _variant(name: VariantName, sealed: SealedVariant) -> Variant:
    return Variant(
        file=MODEL_FILES[name],
        accuracy=sealed.accuracy,
        latency_ms=sealed.latency_ms,
        machine=sealed.machine,
        float_nodes=sealed.float_nodes,
    )
