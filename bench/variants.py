"""`python -m bench.variants`: int8 and fp16 against fp32, in turns, on this machine's CPU.

Weights are random, which changes no time; int8 takes its ranges from crops of scikit-learn's two photographs.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_sample_images

from bundle.front import Front
from bundle.graph import seal
from bundle.stamp import Stamp
from training.core import export_core
from training.latency import machine, measure_latency
from training.models import build
from training.variants import head_nodes, make_fp16, make_int8

NETWORKS = {"resnet20": 32, "resnet18": 224, "resnet50": 224}
CLASSES = 10
ROLES = {"logits": "logits"}
STAMP = Stamp(tuple(map(str, range(CLASSES))))
FRONT = Front("NCHW", "RGB", 255.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def main() -> None:
    """Print a Markdown table: milliseconds a batch, and the speed of each variant relative to fp32."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 16])
    options = parser.parse_args()
    print(f"{machine()}; medians of 5 to 30 rounds, ratios round by round (lowest to highest)\n")
    print("| network | batch | fp32 ms | int8 ms | int8 speed-up | fp16 ms | fp16 speed-up |")
    print("|---|---|---|---|---|---|---|")
    for name in options.networks:
        graphs, row = graphs_of(name)
        found = measure_latency({variant: (raw, row) for variant, raw in graphs.items()}, tuple(options.sizes))
        for size in options.sizes:
            print(line(name, size, {variant: found[variant][size] for variant in graphs}))


def graphs_of(name: str) -> tuple[dict[str, bytes], npt.NDArray[np.uint8]]:
    """Return the sealed variants of a network and an image for it."""
    side = NETWORKS[name]
    torch.manual_seed(0)
    model = build(name, classes=CLASSES, channels=3, input_size=(side, side)).eval()
    core = export_core(model, 3, (side, side))
    fp32 = bytes(seal(core, FRONT, ROLES, STAMP).SerializeToString())
    rows = crops(side)
    variants = {"fp32": fp32, "int8": make_int8(fp32, rows, head_nodes(fp32))}
    return variants | {"fp16": make_fp16(core, FRONT, ROLES, STAMP)}, rows[0]


def crops(side: int, count: int = 16) -> npt.NDArray[np.uint8]:
    """Cut uint8 [count, side, side, 3] out of two photographs."""
    random, photographs = np.random.default_rng(0), load_sample_images().images
    found = []
    for index in range(count):
        photograph = photographs[index % 2]
        top, left = (int(random.integers(0, limit - side)) for limit in photograph.shape[:2])
        found.append(photograph[top : top + side, left : left + side])
    return np.stack(found)


def line(name: str, size: int, seconds: dict[str, list[float]]) -> str:
    """Return one row of the table."""
    cells = [name, str(size), f"{median(seconds['fp32']) * 1e3:.2f}"]
    for variant in ("int8", "fp16"):
        ratios = [a / b for a, b in zip(seconds["fp32"], seconds[variant], strict=True)]
        cells.append(f"{median(seconds[variant]) * 1e3:.2f}")
        cells.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
