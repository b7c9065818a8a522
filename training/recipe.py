"""A recipe: everything that decides a training run, as TOML overrides over typed defaults.

A key that is unknown or a value of the wrong kind is an error that names it. The defaults train the handwritten
digits that scikit-learn ships, offline and within seconds.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from bundle.manifest import Interpolation, Name, Preprocessing
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(Section):
    """Where the images come from and how they are split."""

    source: Literal["folder", "digits", "cifar10", "cifar100", "mnist", "fashion-mnist"] = "digits"
    """`folder`: a folder per class; `digits`: scikit-learn's; the others: the files that their authors publish."""
    path: str | None = None
    """Folder of the data; `--data` on the command line sets it."""
    download: bool = False
    """Fetch published files that are missing below `path`; nothing else here ever uses the network."""
    url: str | None = None
    """Fetch them from this address instead of their authors'."""
    skip_unreadable: bool = False
    """Leave out images that cannot be decoded, instead of stopping with their paths."""
    feedback: str | None = None
    """Folder of newly labelled images, one folder per class; they join the training and validation images."""
    loading: Literal["auto", "memory", "stream"] = "auto"
    """`memory`: decoded once, fast for small images; `stream`: decoded in every epoch, memory does not grow."""
    workers: Annotated[int, Field(ge=1)] = 4
    """Threads that decode streamed images."""
    validation_fraction: Fraction = 0.1
    """Share of the images that choose the best epoch; by content hash, so an image never changes sides."""
    test_fraction: Fraction = 0.2
    """Share of the images held out; unused where the source has a test folder of its own."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training images to learn from, for trials; the other splits stay whole."""


class Input(Section):
    """What the network sees, and how an image becomes that."""

    height: Annotated[int, Field(ge=1, le=1024)] = 8
    width: Annotated[int, Field(ge=1, le=1024)] = 8
    color: Literal["rgb", "grey"] = "grey"
    resize: Literal["shorter_side", "stretch"] = "shorter_side"
    resize_size: Annotated[int, Field(ge=1, le=2048)] | None = None
    """Shorter side in pixels before the centre crop; null: exactly what the crop needs. Only for `shorter_side`."""
    interpolation: Interpolation = "bilinear"
    """`fast_bilinear` for photographs: the same filter in a third of the time."""
    alpha_background: tuple[int, int, int] = (255, 255, 255)
    jpeg_draft: bool = False
    """Decode large JPEGs at a reduced scale: faster, and slightly different pixels."""

    @property
    def channels(self) -> int:
        """3 for `rgb`, 1 for `grey`."""
        return 3 if self.color == "rgb" else 1

    def preprocessing(self) -> Preprocessing:
        """Return the one recipe that evaluation, verification and the service share."""
        short = self.resize_size or max(self.height, self.width)
        size = (self.height, self.width) if self.resize == "stretch" else (short, short)
        return Preprocessing(
            resize=self.resize,
            resize_size=size,
            crop_size=(self.height, self.width),
            interpolation=self.interpolation,
            color=self.color,
            orientation="exif",
            alpha_background=self.alpha_background,
            jpeg_draft=self.jpeg_draft,
        )

    @model_validator(mode="after")
    def _crop_fits(self) -> Input:
        if self.resize_size is not None and self.resize_size < max(self.height, self.width):
            raise ValueError(f"resize_size {self.resize_size} is smaller than the {self.height}x{self.width} crop")
        return self


class Model(Section):
    """Which network; `options` go to its builder."""

    name: str = "resnet8"
    options: dict[str, Any] = {}
    weights: str | None = None
    """Start from these: `DEFAULT` (torchvision's for ImageNet), a web address, or a local .pth or .safetensors file.

    An address whose file name ends in a part of its SHA-256, such as resnet18-f37072fd.pth, is checked against it."""
    mirror: bool = False
    """Answer for the mean of an image's features and its mirror image's: more accurate, twice the work to serve."""

    @property
    def title(self) -> str:
        """The network in words."""
        return f"{self.name} with mirror images" if self.mirror else self.name

    def mirrored(self) -> Self:
        """Return the same network, with the same weights, answering for mirror images too."""
        return self.model_copy(update={"mirror": True})


class Augment(Section):
    """Changes to training images only. Left at its defaults, nothing is changed."""

    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Shift by up to this many pixels each way, the edge reflected; 4 is usual for 32x32."""
    flip: bool = False
    """Mirror half of the images; not for digits or text."""
    scale: tuple[Positive, Positive] | None = None
    """Random scale of streamed photographs before a random crop, such as [1.0, 1.5] times the resize."""
    randaugment: Annotated[int, Field(ge=0, le=30)] = 0
    """Magnitude of two random operations on every image (RandAugment); 0 is off, 9 is usual."""
    mixup: NotNegative = 0.0
    """Alpha of mixup; 0 is off, 0.2 is usual."""
    cutmix: NotNegative = 0.0
    """Alpha of CutMix; 0 is off, 1.0 is usual. With mixup, either is chosen for each batch."""
    erasing: Fraction = 0.0
    """Probability of erasing a random rectangle of an image."""


class Train(Section):
    """The optimisation."""

    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 64
    seed: Annotated[int, Field(ge=0)] = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.1
    """Peak of the schedule. Lower it when the loss is not a number or jumps; raise it when it falls slowly."""
    momentum: Fraction = 0.9
    weight_decay: NotNegative = 5e-4
    """Never applied to biases and normalisation weights."""
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = "one-cycle"
    step_at: tuple[Fraction, ...] = (0.5, 0.75)
    """Where `step` divides the learning rate by ten, as shares of all steps."""
    warmup_fraction: Fraction = 0.2
    """Share of all steps in which the learning rate rises from zero to its peak."""
    loss: Literal["cross_entropy", "hinge"] = "cross_entropy"
    """`hinge` is the multi-class hinge loss of a support vector machine."""
    label_smoothing: Fraction = 0.0
    teachers: tuple[str, ...] = ()
    """Folders of runs whose networks teach this one beside the labels (knowledge distillation)."""
    teachers_see: Literal["images", "views"] = "images"
    """`images`: every training image once, before the first epoch. `views`: all that this network sees, in every batch,
    which teaches more and costs a pass of each teacher in every epoch."""
    teacher_share: Annotated[float, Field(gt=0, le=1)] = 0.7
    teacher_temperature: Positive = 2.0
    """The share of their answers in the loss, and what softens all answers to show which wrong classes are likely."""
    balance: Literal["none", "loss", "sampling"] = "none"
    """Against imbalance: weigh each class's loss, or draw each class, in inverse proportion to its images."""
    clip_norm: Positive | None = None
    """Largest norm of all gradients together."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts that a batch is computed in, one after the other, where it does not fit into memory at once."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs without a better validation accuracy."""
    whiten: bool = False
    """Start the first convolution as the whitening of patches of the training images; freeze it as well."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that stay as they are: ["conv1", "bn1", "layer1"], or ["features.0-23"] of a VGG."""
    rates: dict[str, Positive] = {}
    """Learning rates of parts as shares of `learning_rate`, such as {layer4 = 0.1, "layer4.1" = 0.3}."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, and perhaps faster steps afterwards; measure."""
    compile_backend: Literal["inductor", "aot_eager"] = "inductor"
    """`inductor` needs a C++ compiler; `aot_eager` only traces the network, to see whether it can be compiled."""
    tensorboard: bool = False
    """Write TensorBoard scalars to the run's `tensorboard/`."""
    ema_decay: Fraction = 0.0
    """Decay per step of the averaged weights that are evaluated and kept; 0 turns the average off."""
    small_fraction: Fraction = 0.0
    """Share of the epochs, at the beginning, that see images shrunk to `small_side`: cheaper, learned from as well."""
    small_side: Annotated[int, Field(ge=8)] | None = None
    """Pixels of the shorter side in those epochs; three quarters of the full size is a good choice."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """`bf16` is faster on processors that compute in it, and far slower on those that emulate it: measure."""
    channels_last: bool = True


class Export(Section):
    """What an export makes besides the fp32 graph, and what that may cost."""

    variants: tuple[Literal["int8", "fp16"], ...] = ("int8", "fp16")
    max_top1_drop: Fraction = 0.005
    """A variant whose held-out top-1 lies further below that of fp32 is dropped."""
    calibration_images: Annotated[int, Field(ge=1)] = 256
    """Training images from which int8 takes the ranges of its activations."""
    golden_images: Annotated[int, Field(ge=1, le=64)] = 8
    """Test images that travel with the bundle to prove it wherever it is loaded."""
    latency_batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16, 32)


class Gate(Section):
    """What a candidate may be worse at than the champion and still take its place; see `training.gate`."""

    max_top1_drop: Fraction = 0.0
    """Accuracy it may lose on the held-out images, 0.001 for a tenth of a point."""
    significance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """It is refused as worse, whatever the budget, where McNemar's test gives less than this."""
    max_class_recall_drop: Fraction = 0.05
    """Recall that any one class may lose."""
    min_class_images: Annotated[int, Field(ge=1)] = 20
    """Classes with fewer held-out images are reported but decide nothing: one image would be too much."""
    max_ece_rise: Fraction = 0.02
    max_latency_ratio: Positive = 1.5
    """Its fastest batch of 1 and of 16 on this machine's CPU, against the champion's."""
    max_size_ratio: Positive = 1.5
    """Bytes of its fp32 graph, against the champion's."""


class Recipe(Section):
    """All of it. `name` is what the bundle will be called."""

    name: Name = "digits"
    data: Data = Data()
    input: Input = Input()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train = Train()
    export: Export = Export()
    gate: Gate = Gate()

    def portable(self) -> dict[str, Any]:
        """Return plain values that mean the same on other machines.

        The folders of data and feedback are None; local weights are named by file and folder, teachers by their runs.
        """
        values: dict[str, Any] = self.model_dump(mode="json")
        values["data"] |= {"path": None, "feedback": None}
        weights = self.model.weights
        if weights is not None and weights != "DEFAULT" and "://" not in weights:
            values["model"]["weights"] = str(Path(*Path(weights).resolve().parts[-2:]))
        values["train"]["teachers"] = [Path(teacher).resolve().name for teacher in self.train.teachers]
        return values

    @model_validator(mode="after")
    def _small_is_smaller(self) -> Recipe:
        side = self.train.small_side
        if bool(self.train.small_fraction) != (side is not None):
            raise ValueError("train.small_fraction and train.small_side go together")
        if side is not None and side >= min(self.input.height, self.input.width):
            raise ValueError(f"train.small_side {side} is not smaller than the image")
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> Recipe:
        mixing = self.augment.mixup or self.augment.cutmix
        if self.train.loss == "hinge" and (mixing or self.train.label_smoothing or self.train.teachers):
            raise ValueError("train.loss hinge takes whole classes: no mixup, cutmix, label_smoothing or teachers")
        return self

    @model_validator(mode="after")
    def _shift_fits(self) -> Recipe:
        if self.augment.crop_padding >= min(self.input.height, self.input.width):
            raise ValueError(f"augment.crop_padding {self.augment.crop_padding} is not smaller than the image")
        return self


def load_recipe(source: Path | str, overrides: list[str] | None = None, data: str | None = None) -> Recipe:
    """Read a recipe and apply `key=value` overrides such as `train.epochs=5`.

    `source` is a TOML file, the name of a shipped recipe, or the `run.json` of a run, to train that again.
    A value is read as TOML where it is TOML, else as text. Raises `RecipeError` naming the key.
    """
    path = Path(source)
    if not path.exists() and (RECIPES / f"{source}.toml").exists():
        path = RECIPES / f"{source}.toml"
    values = _read(path)
    for override in overrides or []:
        _override(values, override)
    if data is not None:
        _override(values, f"data.path={json.dumps(str(Path(data).resolve()))}")
    return parse_recipe(values)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".json":
            return dict(json.loads(path.read_text())["recipe"])
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        shipped = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise RecipeError(f"{path}: no such recipe; shipped recipes: {shipped}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        kind = "the run.json of a run" if path.suffix == ".json" else "a TOML file"
        raise RecipeError(f"{path}: not {kind}: {error}") from None


def parse_recipe(values: dict[str, Any]) -> Recipe:
    """Validate nested values over the defaults. Raises `RecipeError` naming the first key that is wrong."""
    try:
        return Recipe.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise RecipeError(_explain(error)) from None


def with_overrides(
    recipe: Recipe, overrides: list[str], *, data: str | None = None, feedback: str | None = None
) -> Recipe:
    """Return a recipe with `key=value` overrides and other folders applied. Raises `RecipeError` naming the key."""
    values = recipe.model_dump(mode="json")
    for folder, key in ((data, "path"), (feedback, "feedback")):
        if folder is not None:
            values["data"][key] = str(Path(folder).resolve())
    for override in overrides:
        _override(values, override)
    return parse_recipe(values)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: expected key=value, for example train.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {override}: {parent} is a value, not a section")
    values[last] = value


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "recipe"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key; known here: {', '.join(_known(first['loc'][:-1]))}"
    what = first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if first["type"] == "value_error" else f"{where}: {what}, not {first['input']!r}"


def _known(path: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return list(section.model_fields)
