"""`python -m bench.training`: what the training package costs over a bare PyTorch loop.

The bare loop steps on one normalised batch that already lies in memory: the limit of this machine. The package's loop
gathers, augments and normalises every batch, keeps a running loss and accuracy, and sets the learning rate. Both
train the same network, one after the other in turn, so that a drift of the machine hits both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from bench.spread import Spread
from training.data.augment import Normalise
from training.data.feed import MemoryFeed
from training.data.tensors import Images
from training.distributed import World
from training.loop import Loop
from training.memory import keep_freed_memory
from training.recipe import Recipe, parse_recipe
from training.runs import make_model

CASES = {
    "resnet20 32x32": {"model": {"name": "resnet20"}, "train": {"batch_size": 128}},
    "resnet18 32x32": {"model": {"name": "resnet18", "options": {"stem": "small"}}, "train": {"batch_size": 32}},
}
SETTINGS = {
    "fp32, channels last": {"precision": "fp32", "channels_last": True},
    "fp32": {"precision": "fp32", "channels_last": False},
    "bf16, channels last": {"precision": "bf16", "channels_last": True},
    "bf16": {"precision": "bf16", "channels_last": False},
}
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Print a Markdown row for every case and setting."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="batches in one measurement (4)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: one thread, on a busy machine (wall)"
    )
    options = parser.parse_args()
    keep_freed_memory()  # as the commands of the package do; the bare loop gains from it as well
    if options.clock == "cpu":
        torch.set_num_threads(1)  # idle threads that wait for work would count as work
    threads = f"{torch.get_num_threads()} threads, {options.clock} clock"
    print(f"torch {torch.__version__}, {threads}, {options.repeats} repeats: median (range)\n")
    print("| case | setting | bare loop, images/s | package, images/s | package / bare |\n|---|---|---|---|---|")
    for case in options.cases:
        for setting in options.settings:
            row = measure(case, setting, options.repeats, options.batches, CLOCKS[options.clock])
            print(f"| {case} | {setting} | {row} |", flush=True)


def measure(case: str, setting: str, repeats: int, batches: int, clock: Clock) -> str:
    """Time both loops in turn and return the last three columns."""
    recipe = _recipe(case, setting)
    count = recipe.train.batch_size * batches
    with tempfile.TemporaryDirectory() as folder:
        bare, package = _bare(recipe, batches), _package(recipe, count, Path(folder))
        bare(), package()  # the first steps allocate
        pairs = [(_seconds(bare, clock), _seconds(package, clock)) for _ in range(repeats)]
    limit, ours = (Spread.of(count / pair[side] for pair in pairs) for side in (0, 1))
    return f"{limit.show(0)} | {ours.show(0)} | {ours.per(limit).show(3)}"


def _recipe(case: str, setting: str) -> Recipe:
    values = CASES[case]
    shape = {"height": 32, "width": 32, "color": "rgb"}
    augment = {"crop_padding": 4, "flip": True}
    train = {**values["train"], **SETTINGS[setting], "learning_rate": 1e-3}
    return parse_recipe({"input": shape, "model": values["model"], "augment": augment, "train": train})


def _bare(recipe: Recipe, batches: int) -> Callable[[], object]:
    model = make_model(recipe, 10).train()
    x, targets = torch.randn(recipe.train.batch_size, 3, 32, 32), torch.randint(10, (recipe.train.batch_size,))
    if recipe.train.channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def run() -> None:
        for _ in range(batches):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.train.precision == "bf16"):
                logits = model(x)
            torch.autograd.backward(cross_entropy(logits.float(), targets))
            optimizer.step()
            optimizer.zero_grad()

    return run


def _package(recipe: Recipe, count: int, folder: Path) -> Callable[[], object]:
    images = Images(torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8), torch.randint(10, (count,)))
    feed = MemoryFeed(images, recipe.augment)
    normalise = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    loop = Loop(folder, recipe, {"train": feed, "validation": feed}, 10, normalise, World())
    return lambda: loop.learn(1)


def _seconds(run: Callable[[], object], clock: Clock) -> float:
    started = clock()
    run()
    return clock() - started


if __name__ == "__main__":
    main()
