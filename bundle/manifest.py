"""`bundle.json`, typed: every fact about an exported classifier, strict and without defaults.

A key that is missing or unknown is an error that names it: a bundle is complete or it does not load.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bundle.errors import BundleError

SCHEMA: Literal["clearsight.bundle/1"] = "clearsight.bundle/1"
MANIFEST_FILE = "bundle.json"
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2**31
"""An ONNX file is one protobuf message, and those end at 2 GiB."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")]
VariantName = Literal["fp32", "fp16", "int8"]
Provider = Literal["cpu", "cuda"]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos", "fast_bilinear"]


class Strict(BaseModel):
    """A frozen record that refuses unknown keys and values of another type."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Preprocessing(Strict):
    """The recipe from encoded bytes to the uint8 array that enters the graph (see `bundle.preprocess`)."""

    resize: Literal["shorter_side", "stretch", "none"]
    """`shorter_side`: keep the aspect ratio; `stretch`: to exactly `resize_size`; `none`: sizes must match already."""
    resize_size: tuple[int, int] | None
    """(height, width) in pixels; equal numbers for `shorter_side`; null for `none`."""
    crop_size: tuple[int, int] | None
    """(height, width) of the centre crop after the resize; null for no crop."""
    interpolation: Interpolation
    """Pillow's antialiased filter of that name; `fast_bilinear` is its bilinear by SIMD, within two levels."""
    color: Literal["rgb", "grey"]
    orientation: Literal["exif", "ignore"]
    alpha_background: tuple[int, int, int]
    """RGB, 0..255: what shows through transparent pixels."""
    jpeg_draft: bool
    """Decode a JPEG at a reduced DCT scale (1/2, 1/4, 1/8) where that still covers `resize_size`."""

    @property
    def channels(self) -> int:
        """Channels of the array that enters the graph: 3 for `rgb`, 1 for `grey`."""
        return 3 if self.color == "rgb" else 1

    @model_validator(mode="after")
    def _consistent(self) -> Preprocessing:
        if (self.resize == "none") != (self.resize_size is None):
            raise ValueError("resize_size must be null exactly when resize is 'none'")
        if self.resize == "shorter_side" and self.resize_size and self.resize_size[0] != self.resize_size[1]:
            raise ValueError("resize_size must hold two equal numbers when resize is 'shorter_side'")
        sizes = [n for pair in (self.resize_size, self.crop_size) if pair for n in pair]
        if any(n < 1 or n > 8192 for n in sizes):
            raise ValueError("sizes must lie between 1 and 8192 pixels")
        crop, resized = self.crop_size, self.resize_size
        if crop and resized and (crop[0] > resized[0] or crop[1] > resized[1]):
            raise ValueError("crop_size must not exceed resize_size")
        if any(not 0 <= c <= 255 for c in self.alpha_background):
            raise ValueError("alpha_background must hold three numbers between 0 and 255")
        return self


class TensorSpec(Strict):
    """One input or output of the sealed graph; a dimension is a number or a name."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]

    def describe(self) -> str:
        """Return it as people write it: `image uint8 [batch, 32, 32, 3]`."""
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


class FileFact(Strict):
    """What a file of the bundle must be."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Graph(Strict):
    """What the export recorded about the graph."""

    opset: int
    parameters: Count
    architecture: str
    producer: str


class Accuracy(Strict):
    """Top-1 of a variant on the held-out split, measured through onnxruntime and `bundle.preprocess`."""

    n: Count
    top1: Probability
    difference: float
    """top-1 minus that of fp32 on the same images."""
    difference_interval: tuple[float, float] | None
    """95 % interval of `difference`; null for fp32 itself."""
    agreement: Probability
    """Share of images with the same top-1 as fp32."""


class Variant(Strict):
    """One precision of the sealed graph."""

    file: FileName
    accuracy: Accuracy | None
    """Null where no held-out images were there to measure it (an imported graph)."""
    latency_ms: dict[Provider, dict[str, float]]
    """Median milliseconds per batch, by provider, then by batch size; a provider that was not measured is absent."""
    machine: str
    """Where `latency_ms` was measured."""
    float_nodes: tuple[str, ...]
    """Nodes of the core that int8 left in float because accuracy needed it; empty for other variants."""


class Dropped(Strict):
    """A variant that the export made and did not keep."""

    reason: str
    accuracy: Accuracy | None
    """What it was worth; null where it could not be made or run."""


class ClassMetrics(Strict):
    """One class on the held-out split."""

    support: Count
    precision: Probability
    recall: Probability
    f1: Probability


class Metrics(Strict):
    """The held-out evaluation of the sealed graph: what training measured and production must serve."""

    dataset: str
    split: str
    n: Count
    top1: Probability
    top1_interval: tuple[Probability, Probability]
    """95 % Wilson interval."""
    top5: Probability
    loss: float
    ece: Probability
    """Expected calibration error, 15 equal-width bins, after `temperature`."""
    ece_uncalibrated: Probability
    per_class: dict[str, ClassMetrics]


class GoldenImage(Strict):
    """A real image and the probabilities that fp32 on the CPU must give for it."""

    file: FileName
    probabilities: tuple[Probability, ...]


class Golden(Strict):
    """The images replayed by `verify` and by the service before it is ready."""

    images: Annotated[tuple[GoldenImage, ...], Field(min_length=1)]
    tolerance: dict[VariantName, dict[Provider, float]]
    """Largest allowed absolute difference of any probability."""


class Histogram(Strict):
    """Counts between edges: `len(edges) == len(counts) + 1`."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _paired(self) -> Histogram:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError("edges must be one longer than counts")
        return self


class Drift(Strict):
    """The validation images as the model met them: what production is compared with."""

    n: Count
    brightness: Histogram
    contrast: Histogram
    sharpness: Histogram
    confidence: Histogram
    predicted: dict[str, Count]


class Lineage(Strict):
    """Where the bundle comes from."""

    kind: Literal["trained", "imported"]
    recipe: dict[str, Any] | None
    seed: int | None
    code: str | None
    """Commit of the code that made it; null outside a checkout."""
    data_fingerprint: str | None
    libraries: dict[str, str]
    parent: int | None
    """The version that it was fine-tuned from."""


class Verdict(Strict):
    """The promotion gate's outcome; its numbers lie in `verdict.json`."""

    outcome: Literal["champion", "candidate"]
    champion: int | None
    """The version it was compared with; null for a first version."""
    reason: str


class Parity(Strict):
    """Largest absolute differences seen while the export proved itself."""

    batch_sizes: tuple[int, ...]
    max_logit_difference: float
    tolerance: float
    """Largest allowed difference of a logit from PyTorch's."""
    max_probability_difference: float
    probability_tolerance: float
    batch_invariance: float
    """Largest difference of a probability between batch sizes for the same image."""
    batch_invariance_tolerance: float
    nodes_by_provider: dict[str, dict[str, Count]]
    """For each provider tried, how many nodes ran on each."""


class Manifest(Strict):
    """All of `bundle.json`."""

    schema_: Literal["clearsight.bundle/1"] = Field(alias="schema")
    name: Name
    version: Annotated[int, Field(ge=1)]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: Preprocessing
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    graph: Graph
    variants: dict[VariantName, Variant]
    dropped: dict[VariantName, Dropped]
    """Variants that were asked for and are not here, each with the reason."""
    explain: FileName | None
    """The graph with output `cam` [batch, classes, h, w], float32: class activation maps; null where none exists."""
    temperature: Annotated[float, Field(gt=0)]
    metrics: Metrics | None
    golden: Golden
    parity: Parity | None
    drift: Drift | None
    lineage: Lineage
    verdict: Verdict | None
    files: dict[FileName, FileFact]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        classes, recipe = len(self.labels), self.preprocessing
        if len(set(self.labels)) != classes:
            raise ValueError("labels must not repeat")
        if "fp32" not in self.variants:
            raise ValueError("variants must hold fp32")
        if both := sorted(set(self.variants) & set(self.dropped)):
            raise ValueError(f"{both[0]} is listed in variants and in dropped")
        outputs = {spec.name: spec for spec in self.outputs}
        if "probabilities" not in outputs:
            raise ValueError("outputs must hold probabilities")
        if outputs["probabilities"].shape[-1] != classes:
            raise ValueError(f"probabilities has {outputs['probabilities'].shape[-1]} classes but labels has {classes}")
        if self.input.name != "image" or self.input.dtype != "uint8" or len(self.input.shape) != 4:
            raise ValueError("input must be 'image', uint8, [batch, height, width, channels]")
        if self.input.shape[3] != recipe.channels:
            raise ValueError(f"input has {self.input.shape[3]} channels but preprocessing makes {recipe.channels}")
        made = recipe.crop_size or (recipe.resize_size if recipe.resize == "stretch" else None)
        if made and made != self.input.shape[1:3]:
            taken = self.input.shape
            raise ValueError(f"preprocessing makes {made[0]}x{made[1]} but input is {taken[1]}x{taken[2]}")
        for image in self.golden.images:
            if len(image.probabilities) != classes:
                raise ValueError(f"{image.file} has {len(image.probabilities)} probabilities for {classes} labels")
        for variant in self.variants:
            if "cpu" not in self.golden.tolerance.get(variant, {}):
                raise ValueError(f"golden.tolerance lacks {variant} on cpu")
        named = [v.file for v in self.variants.values()] + [g.file for g in self.golden.images]
        missing = [file for file in [*named, *filter(None, [self.explain])] if file not in self.files]
        if missing:
            raise ValueError(f"files lacks {missing[0]}")
        return self

    @property
    def height(self) -> int:
        """Rows of the array that enters the graph."""
        return int(self.input.shape[1])

    @property
    def width(self) -> int:
        """Columns of the array that enters the graph."""
        return int(self.input.shape[2])

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the graph takes, or None where any will do."""
        return self.input.shape[0] if isinstance(self.input.shape[0], int) else None

    def to_json(self) -> bytes:
        """Return the canonical bytes of `bundle.json`; their SHA-256 is the bundle's digest."""
        return (self.model_dump_json(by_alias=True, indent=1) + "\n").encode()


def parse_manifest(raw: bytes) -> Manifest:
    """Read `bundle.json`.

    Raises `BundleError` naming the first key that is missing, unknown or wrong, and how many more there are.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST_FILE} is {len(raw)} bytes; at most {MAX_MANIFEST_BYTES} are read")
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        where = ".".join(str(part) for part in problems[0]["loc"]) or "the document"
        what = re.sub(r"^Value error, ", "", problems[0]["msg"])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BundleError(f"{MANIFEST_FILE}: {where}: {what}{more}") from None


def digest_of(raw: bytes) -> str:
    """Return `sha256:<hex>` of `bundle.json`, which names the SHA-256 of every other file."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"
