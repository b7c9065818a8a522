"""The JSON documents of the Open Inference Protocol V2, as they are validated and described.

Source: the KServe V2 REST specification, and Triton's binary tensor data and classification extensions.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from service.schema import EXAMPLE_IMAGE

Dimension = Annotated[int, Field(ge=0, le=2**31)]
Parameters = dict[str, bool | int | float | str | None]


class Document(BaseModel):
    """A document of the protocol: unknown members are ignored, as the protocol asks; no text passes for a number."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class InputTensor(Document):
    """A tensor sent to the model; its data lies in `data` or behind the JSON (`binary_data_size`)."""

    name: str
    shape: Annotated[list[Dimension], Field(max_length=8)]
    datatype: str
    parameters: Parameters = {}
    data: Any = None


class OutputRequest(Document):
    """A tensor asked for. Parameters: `classification` (k), `binary_data`."""

    name: str
    parameters: Parameters = {}


class InferRequest(Document):
    """The body of an infer request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [EXAMPLE_IMAGE]}]},
            ]
        }
    )

    id: Annotated[str, Field(max_length=256)] = ""
    parameters: Parameters = {}
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[OutputRequest], Field(max_length=16)] = []


class OutputTensor(Document):
    """A tensor of the answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters = {}
    data: list[Any] | None = None


class InferResponse(Document):
    """The body of an answer to an infer request."""

    model_name: str
    model_version: str
    id: str = ""
    parameters: Parameters = {}
    outputs: list[OutputTensor]


class TensorMetadata(Document):
    """What the model takes or gives; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Document):
    """What a model is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Document):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class RepositoryEntry(Document):
    """One version of a model in the repository."""

    name: str
    version: str
    state: str
    reason: str


class V2Error(Document):
    """An error in the shape of the protocol."""

    error: str
