"""`describe`: a network's layers and totals."""

from __future__ import annotations

import argparse
import json
import re

import torch

from training.describe import Layer, describe
from training.errors import RecipeError
from training.models import build, names


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's arguments."""
    command = commands.add_parser("describe", help="layers, parameters, FLOPs and receptive fields of a network")
    command.add_argument("model", help=f"one of {', '.join(names())}")
    command.add_argument("--input", default="3x224x224", metavar="CxHxW", help="channels, height, width (3x224x224)")
    command.add_argument("--classes", type=int, default=1000)
    command.add_argument("--options", default="{}", metavar="JSON", help='builder options, such as {"stem": "small"}')
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,3})x([1-9]\d{0,3})", options.input)
    if match is None:
        raise RecipeError(f"--input {options.input}: expected channels x height x width, such as 3x224x224")
    try:
        settings = dict(json.loads(options.options))
    except (ValueError, TypeError):
        raise RecipeError(f"--options {options.options}: expected a JSON object") from None
    channels, height, width = map(int, match.groups())
    with torch.device("meta"):
        model = build(options.model, classes=options.classes, channels=channels, input_size=(height, width), **settings)
    found = describe(model, channels, (height, width))
    size = max(len(layer.name) for layer in found.layers)
    print(f"{'layer':{size}}  {'kind':17}  {'output':>15}  {'parameters':>12}  {'MFLOPs':>10}  {'field':>6}")
    for layer in found.layers:
        print(_row(layer, size))
    print(
        f"{options.model}: {found.depth} layers with weights, {found.parameters:,} parameters,"
        f" {found.flops / 1e9:.3f} GFLOPs for {options.input} (a multiply-add is two)"
    )
    return 0


def _row(layer: Layer, size: int) -> str:
    shape, field = "x".join(map(str, layer.shape)), "all" if layer.field is None else str(layer.field)
    figures = f"{layer.parameters:12,}  {layer.flops / 1e6:10.2f}  {field:>6}"
    return f"{layer.name:{size}}  {layer.kind:17}  {shape:>15}  {figures}"
