"""What each step of preprocessing buys: `python -m bench.preprocessing [--images DIR] [--bundle DIR]`.

The plain Pillow pipeline (decode, resize the shorter side to 256, crop 224, normalise in float) is the yardstick;
every other row adds one step to `bundle.preprocess`. Times are CPU time of one thread, as ratios within a round.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.models import imagenet_preprocessing
from bench.plain import plain
from bundle.preprocess import preprocess
from bundle.store import Bundle

SIZES = {"500x375": (500, 375), "1600x1067": (1600, 1067)}
FAST = imagenet_preprocessing().model_copy(update={"jpeg_draft": False})
CROP_BOX = FAST.model_copy(update={"interpolation": "bilinear"})
STEPS = {
    "resize only the crop, uint8 out": CROP_BOX,
    "+ SIMD bilinear": FAST,
    "+ reduced DCT scale": imagenet_preprocessing(),
}


def photographs(folder: Path | None, size: tuple[int, int], count: int) -> list[bytes]:
    """Return JPEGs of exactly `size`: the folder's photographs, or the two that scikit-learn ships, re-encoded."""
    if folder:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[:count]
        images = [Image.open(path).convert("RGB") for path in paths]
    else:
        from sklearn.datasets import load_sample_images

        images = [Image.fromarray(array) for array in load_sample_images().images]
    encoded = []
    for image in images:
        sink = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(sink, "JPEG", quality=85)
        encoded.append(sink.getvalue())
    return encoded


def cpu_ms(work: Callable[[bytes], object], files: list[bytes], repeats: int) -> float:
    """Return milliseconds of CPU time per file."""
    started = time.thread_time()
    for _ in range(repeats):
        for data in files:
            work(data)
    return (time.thread_time() - started) * 1000 / (repeats * len(files))


def agreement(session: object, crops: list[npt.NDArray[np.uint8]], reference: list[npt.NDArray[np.uint8]]) -> float:
    """Return the share of crops with the same top-1 as their reference."""
    top = [
        session.run(["probabilities"], {"image": np.stack(rows)})[0].argmax(1)  # type: ignore[attr-defined]
        for rows in (crops, reference)
    ]
    return float((top[0] == top[1]).mean())


def measure(name: str, files: list[bytes], rounds: int, session: object | None) -> None:
    """Print one table: median time, ratio to the plain pipeline with its spread, and the difference in pixels."""
    works: dict[str, Callable[[bytes], object]] = {"plain Pillow pipeline": plain}
    works |= {step: (lambda data, recipe=recipe: preprocess(data, recipe)) for step, recipe in STEPS.items()}
    repeats = max(1, 24 // len(files))
    times = [{step: cpu_ms(work, files, repeats) for step, work in works.items()} for _ in range(rounds)]
    reference = [plain(data) for data in files]
    print(f"\n{name}: {len(files)} JPEGs of {sum(map(len, files)) // len(files)} bytes, median of {rounds} rounds\n")
    print("| pipeline | ms | of plain | spread | mean difference | top-1 agreement |\n|---|---|---|---|---|---|")
    for step in works:
        ratios = sorted(row[step] / row["plain Pillow pipeline"] for row in times)
        crops = [preprocess(data, STEPS[step]).pixels for data in files] if step in STEPS else reference
        difference = np.mean([abs(a.astype(int) - b).mean() for a, b in zip(crops, reference, strict=True)])
        agreed = f"{agreement(session, crops, reference):.3f}" if session else "-"
        print(
            f"| {step} | {statistics.median(row[step] for row in times):.2f} | {statistics.median(ratios):.2f}"
            f" | {ratios[0]:.2f}..{ratios[-1]:.2f} | {difference:.2f} | {agreed} |"
        )


def open_session(path: Path) -> object:
    """Load a bundle's fp32 graph; its input must be 224x224 color."""
    import onnxruntime

    from bundle.store import Store

    bundle: Bundle = Store(path.parent.parent).open(path.parent.name, int(path.name))
    return onnxruntime.InferenceSession(bundle.read(bundle.manifest.variants["fp32"].file))


def main() -> None:
    """Measure both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs; without it, scikit-learn's two")
    parser.add_argument("--bundle", type=Path, help="<store>/<name>/<version> of a 224x224 model, for the agreement")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    session = open_session(given.bundle) if given.bundle else None
    for name, size in SIZES.items():
        measure(name, photographs(given.images, size, given.count), given.rounds, session)


if __name__ == "__main__":
    main()
