"""A network as a table: each layer's output, parameters, arithmetic and receptive field."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from training.models import Classifier

_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
SHORTCUTS = ("downsample", "projection")
"""Layers with these in their names lie on a shortcut; the papers do not count them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One module. `flops` counts a multiplication and an addition as two; `field` is in input pixels, None: all."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    field: int | None


@dataclass(frozen=True, slots=True)
class Description:
    """All layers, and the totals; `depth` counts convolutions and linear layers off the shortcuts."""

    layers: tuple[Layer, ...]
    parameters: int
    flops: int
    depth: int


def describe(model: Classifier, channels: int, size: tuple[int, int]) -> Description:
    """Trace a network (on the meta device, so nothing is computed) for one image of `channels` x `size`."""
    traced = fx.symbolic_trace(copy.deepcopy(model).to("meta"))
    tracer = _Tracer(traced)
    with torch.inference_mode():
        tracer.run(torch.empty(1, channels, *size, device="meta"))
    weighted = [layer for layer in tracer.layers if layer.kind in ("Conv2d", "Linear")]
    return Description(
        layers=tuple(tracer.layers),
        parameters=sum(p.numel() for p in model.parameters()),
        flops=sum(layer.flops for layer in tracer.layers),
        depth=sum(not any(word in layer.name for word in SHORTCUTS) for layer in weighted),
    )


class _Tracer(fx.Interpreter):
    """Run the graph on shapes and carry (receptive field, distance of neighbours) beside every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers: list[Layer] = []
        self.fields: dict[fx.Node, tuple[float, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and note what it does to the receptive field."""
        result = super().run_node(n)
        seen = max((self.fields[i] for i in n.all_input_nodes if i in self.fields), default=(1.0, 1.0))
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        self.fields[n] = _widened(seen, module, str(n.target))
        if module is not None and isinstance(result, Tensor):
            field = self.fields[n][0]
            self.layers.append(
                Layer(
                    name=str(n.target),
                    kind=type(module).__name__,
                    shape=tuple(result.shape[1:]),
                    parameters=sum(p.numel() for p in module.parameters()),
                    flops=_flops(module, result),
                    field=None if math.isinf(field) else int(field),
                )
            )
        return result


def _widened(seen: tuple[float, float], module: nn.Module | None, target: str) -> tuple[float, float]:
    """Return (field, distance) behind a module: field + (kernel - 1) * distance, and distance * stride."""
    if isinstance(module, nn.Linear | nn.AdaptiveAvgPool2d) or "mean" in target or "flatten" in target:
        return math.inf, math.inf
    if isinstance(module, _WINDOWS):
        kernel, stride = _first(module.kernel_size), _first(module.stride)
        return seen[0] + (kernel - 1) * seen[1], seen[1] * stride
    return seen


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _flops(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Conv2d):
        taps = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
        return 2 * taps * output.numel()
    if isinstance(module, nn.Linear):
        return 2 * module.in_features * module.out_features
    return 0
