"""The network alone as an ONNX graph: normalised float32 NCHW in, logits and embedding out, any batch size."""

from __future__ import annotations

import logging
import warnings

import onnx
import torch
from bundle.front import Front
from bundle.graph import strip
from torch import Tensor, nn

from training.errors import TrainingError
from training.models import Classifier
from training.runs import TrainedRun

OPSET = 18
TRACED_BATCH = 3
"""Not 1, which the exporter may freeze into the graph, and none of the sizes that parity is proved at."""


def export_core(model: Classifier, channels: int, size: tuple[int, int]) -> onnx.ModelProto:
    """Export `x` [batch, channels, height, width] to `logits` [batch, classes] and `embedding` [batch, d]."""
    return _export(_Core(model), channels, size)


def front_of(run: TrainedRun) -> Front:
    """Return how a run's network wants its pixels."""
    color = "RGB" if run.recipe.input.color == "rgb" else "GREY"
    return Front("NCHW", color, 255.0, run.mean, run.std)  # type: ignore[arg-type]


class _Core(nn.Module):
    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.model.embed(x)
        return self.model.head(embedding), embedding


def _export(module: nn.Module, channels: int, size: tuple[int, int]) -> onnx.ModelProto:
    example = torch.zeros(TRACED_BATCH, channels, *size)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's remarks about its own internals
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                input_names=["x"],
                output_names=["logits", "embedding"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        raise TrainingError(f"PyTorch cannot export the network: {str(error).splitlines()[0]}") from error
    finally:
        quiet.setLevel(level)
    assert program is not None
    return strip(program.model_proto)
