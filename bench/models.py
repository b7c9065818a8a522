"""What is served: the shipped ResNet-20, and a ResNet-50 with random weights, which takes as long as a trained one."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.inputs import Input, photograph, thumbnail
from bundle.draft import Draft, SealedVariant
from bundle.errors import BundleError
from bundle.graph import Front, opset_of, parameters_of, seal
from bundle.manifest import Graph, Lineage, Preprocessing, VariantName
from bundle.preprocess import preprocess
from bundle.stamp import Stamp
from bundle.store import Bundle, Store

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "exported"
BUILT = ROOT / "build" / "bench"
IMAGENET = Front("NCHW", "RGB", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """One model file and the image that is sent to it."""

    name: str
    store: Path
    model: str
    variant: VariantName
    image: Input
    batches: tuple[int, ...]

    @property
    def photograph(self) -> bool:
        """Whether the image is a photograph that is resized and cropped."""
        return self.image.content_type == "image/jpeg"

    def bundle(self) -> Bundle:
        """Open the bundle that every server of this case serves."""
        return Store(self.store).open(self.model)

    def graph(self) -> bytes:
        """Return the sealed graph that every server of this case runs."""
        bundle = self.bundle()
        return bundle.read(bundle.manifest.variants[self.variant].file)

    def environment(self) -> dict[str, str]:
        """Return what tells the peers and the service what to serve."""
        return {
            "BENCH_STORE": str(self.store),
            "BENCH_MODEL": self.model,
            "BENCH_VARIANT": self.variant,
            "BENCH_CORES": str(cores()),
            "CLEARSIGHT_STORE": str(self.store),
            "CLEARSIGHT_DEFAULT_MODEL": self.model,
            "CLEARSIGHT_MODELS": f'["{self.model}"]',
            "CLEARSIGHT_VARIANT": self.variant,
            "CLEARSIGHT_DEVICE": "cpu",  # where the peers run
            "CLEARSIGHT_PORT": "{port}",
        }


def cases() -> dict[str, Case]:
    """List the cases by name; the ResNet-50 is built by `build` before it is used."""
    small, large = thumbnail(32), photograph(500, 375)
    return {
        "resnet50-int8": Case("ResNet-50 int8", BUILT, "resnet50", "int8", large, (1, 2, 4, 8)),
        "resnet20-int8": Case("ResNet-20 int8", SHIPPED, "cifar10", "int8", small, (1, 2, 4, 8, 16, 32)),
        "resnet20": Case("ResNet-20 fp32", SHIPPED, "cifar10", "fp32", small, (1, 2, 4, 8, 16, 32)),
        "resnet50": Case("ResNet-50 fp32", BUILT, "resnet50", "fp32", large, (1, 2, 4, 8)),
    }


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def build() -> None:
    """Make the ResNet-50 bundle below build/ unless it is there and up to date: random weights, fp32 and int8."""
    store = Store(BUILT)
    with contextlib.suppress(BundleError):  # not there, or written by another version of this project
        if store.open("resnet50").manifest.preprocessing == imagenet_preprocessing():
            return
    shutil.rmtree(BUILT / "resnet50", ignore_errors=True)
    store.promote("resnet50", _resnet50([photograph(500, 375), photograph(1600, 1067)]).publish(store).manifest.version)


def imagenet_preprocessing() -> Preprocessing:
    """Return the recipe that the shipped recipes for photographs use: shorter side to 256, centre crop of 224."""
    return Preprocessing(
        resize="shorter_side",
        resize_size=(256, 256),
        crop_size=(224, 224),
        interpolation="fast_bilinear",
        color="rgb",
        orientation="exif",
        alpha_background=(255, 255, 255),
        jpeg_draft=True,
    )


def _median_ms(seconds: dict[int, list[float]]) -> dict[str, float]:
    return {str(size): 1e3 * statistics.median(rounds) for size, rounds in seconds.items()}


def _resnet50(images: list[Input]) -> Draft:
    import torch

    from training.core import export_core
    from training.latency import machine, measure_latency
    from training.models import build as build_model
    from training.variants import make_int8

    torch.manual_seed(0)
    labels = tuple(f"class {number}" for number in range(1000))
    core = export_core(build_model("resnet50", classes=1000, channels=3, input_size=(224, 224)).eval(), 3, (224, 224))
    recipe, roles = imagenet_preprocessing(), {"logits": "logits", "embedding": "embedding"}
    rows = np.stack([preprocess(image.body, recipe).pixels for image in images])
    graphs: dict[VariantName, bytes] = {"fp32": seal(core, IMAGENET, roles, Stamp(labels)).SerializeToString()}
    graphs["int8"] = make_int8(graphs["fp32"], rows)
    seconds = measure_latency({name: (raw, rows[0]) for name, raw in graphs.items()}, (1, 4))
    return Draft(
        name="resnet50",
        labels=labels,
        preprocessing=recipe,
        graph=Graph(opset=opset_of(core), parameters=parameters_of(core), architecture="resnet50", producer="bench"),
        variants={
            name: SealedVariant(raw, latency_ms={"cpu": _median_ms(seconds[name])}, machine=machine())
            for name, raw in graphs.items()
        },
        # Random weights have no meaning that int8 could keep.
        tolerance={"fp32": {"cpu": 1e-3}, "int8": {"cpu": 1.0}},
        golden={f"{number}.jpg": image.body for number, image in enumerate(images)},
        lineage=Lineage(
            kind="imported", recipe=None, seed=0, code=None, data_fingerprint=None, libraries={}, parent=None
        ),
    )
