"""The JSON documents of the service's own API: requests are validated by them, and `/openapi.json` is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
EXAMPLE_IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
"""One red pixel as PNG, in base64."""
Base64 = Annotated[
    str,
    Field(
        description="base64 of an encoded image, or a data: URL",
        # Described, not checked here: `decode64` says in words what is wrong.
        json_schema_extra={"minLength": 4, "pattern": r"^(data:[^,]*,)?[A-Za-z0-9+/]+={0,2}$"},
    ),
]


class Document(BaseModel):
    """A document; members that are not described are ignored, and no text passes for a number."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class ImagesBody(Document):
    """Images in JSON: one for a single answer, a list for a list of results."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": EXAMPLE_IMAGE}]})

    image: Base64 | Annotated[list[Base64], Field(min_length=1)]


class FeedbackBody(Document):
    """The true label of an image that was classified."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"request_id": "a1", "label": "cat"}]})

    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/+=-]{1,128}$")]
    label: Annotated[str, Field(max_length=256)]
    model: str | None = None
    image: Base64 | None = None


class InstancesBody(Document):
    """A request of the V1 protocol: each instance is `{"b64": …}`, or pixels [height, width, channels] of 0..255."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"instances": [{"b64": EXAMPLE_IMAGE}]}]})

    instances: Annotated[
        list[Any],
        Field(
            min_length=1,
        ),
    ]


class LoadBody(Document):
    """The body of a repository load or unload: `parameters.version` picks a version."""

    parameters: dict[str, Any] = {}


class IndexBody(Document):
    """The body of a repository index request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ready": True}]})

    ready: bool = False


class ModelName(Document):
    """Which version answered."""

    name: str
    version: str
    digest: str
    variant: str


class Prediction(Document):
    """One class."""

    label: str
    index: int
    probability: Probability


class Abstention(Document):
    """Why there are no predictions: the highest probability did not reach the threshold."""

    threshold: float
    highest: float


class InputNote(Document):
    """How the image was read."""

    format: str
    width: int
    height: int
    orientation: Annotated[int, Field(ge=1, le=8)]
    notes: list[str]


class Problem(Document):
    """An error (RFC 9457). `code` is stable; `detail` says what was wrong."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


class ImageProblem(Document):
    """What was wrong with one image of several."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class Result(Document):
    """What became of one image of several: predictions, or an error."""

    predictions: list[Prediction] | None = None
    abstained: Abstention | None = None
    embedding: list[float] | None = None
    input: InputNote | None = None
    error: ImageProblem | None = None


class Prediction1(Document):
    """The answer to one image."""

    request_id: str
    model: ModelName
    predictions: list[Prediction]
    abstained: Abstention | None = None
    embedding: list[float] | None = None
    input: InputNote


class Predictions(Document):
    """The answer to several images, in their order."""

    request_id: str
    model: ModelName
    results: list[Result]


class Explanation(Document):
    """Which parts of the image spoke for a class. `map` is [rows, columns], higher for more; `pixels` is a PNG."""

    request_id: str
    model: ModelName
    label: str
    index: int
    probability: Probability
    method: Literal["cam", "occlusion"]
    map: list[list[float]]
    pixels: Base64
    input: InputNote


class ModelVersion(Document):
    """One version in the store."""

    name: str
    version: str
    state: str
    reason: str
    role: str
    digest: str | None
    variant: str | None
    provider: str | None


class Models(Document):
    """Every version in the store; `default` answers requests without a model."""

    default: str
    models: list[ModelVersion]


class ModelVersions(Document):
    """The versions of one model."""

    name: str
    versions: list[ModelVersion]


class ModelDetail(ModelVersion):
    """A version and, while it is loaded, what its bundle says."""

    labels: list[str] | None = None
    preprocessing: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] | None = None
    metrics: dict[str, Any] | None = None
    explain: bool | None = None


class Health(Document):
    """A probe's answer."""

    status: str
    problems: list[str]
    device: str | None = None


class Stored(Document):
    """Feedback that was kept; `image` is the SHA-256 under which the image lies, if there was one."""

    request_id: str
    label: str
    image: str | None


class V1Prediction(Document):
    """The answer to one instance."""

    label: str
    index: int
    probability: Probability
    probabilities: list[Probability]


class V1Predictions(Document):
    """The answer of the V1 protocol."""

    predictions: list[V1Prediction]


class ErrorText(Document):
    """An error in the shape of the V1 and V2 protocols."""

    error: str


class TorchServeError(Document):
    """An error in TorchServe's shape."""

    code: int
    type: str
    message: str
