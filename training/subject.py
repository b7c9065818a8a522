"""What can be evaluated: the run that training left, or the bundle that production serves, on the same images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundle import session
from bundle.manifest import MANIFEST_FILE, Manifest, Preprocessing
from bundle.store import Bundle, Store

from training.answers import Probabilities, of_graph, of_network
from training.data import Dataset, open_dataset
from training.data.augment import Normalise
from training.data.dataset import Split
from training.errors import DataError, RunError
from training.recipe import Data
from training.runs import RUN_FILE, load_run
from training.watcher import UNWATCHED, Watcher


@dataclass(frozen=True)
class Subject:
    """A model, the data to judge it on, and `answer(split)`: probabilities [n, classes], float32, in order."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    data: Dataset
    answer: Callable[[Split], Probabilities]


def open_subject(
    path: Path,
    data: Path | str | None = None,
    variant: str = "fp32",
    watcher: Watcher = UNWATCHED,
    *,
    mirror: bool = False,
) -> Subject:
    """Open a run folder (PyTorch) or a bundle folder (onnxruntime); `data` names the folder of images to use.

    `mirror` is `load_run`'s. Raises `RunError` for a folder that is neither, or for a bundle that should answer for
    mirror images as well, and `DataError` for images with other classes.
    """
    if (path / MANIFEST_FILE).exists():
        if mirror:
            raise RunError(f"{path} is sealed; --mirror is for runs, before they are exported")
        return _bundle(path, data, variant, watcher)
    if (path / RUN_FILE).exists():
        return _run(path, data, mirror, watcher)
    raise RunError(f"{path} is neither a run (no {RUN_FILE}) nor a bundle (no {MANIFEST_FILE})")


def _run(path: Path, data: Path | str | None, mirror: bool, watcher: Watcher) -> Subject:
    run = load_run(path, data, mirror=mirror)
    normalise = Normalise(run.mean, run.std)

    def answer(split: Split) -> Probabilities:
        return of_network(run.model, split, run.preprocessing, normalise, watcher)

    # Not `run.data`: that insists on the images of training, while a model may be judged on any.
    data_set = _same_classes(open_dataset(run.recipe.name, run.recipe.data), run.labels)
    name = f"{path.name} ({run.recipe.model.title})" if run.recipe.model.mirror else path.name
    return Subject(name, run.labels, run.preprocessing, data_set, answer)


def _bundle(path: Path, data: Path | str | None, variant: str, watcher: Watcher) -> Subject:
    path = path.resolve()
    bundle = Store(path.parent.parent).open(path.parent.name, int(path.name))
    manifest = bundle.manifest
    known = {str(name): entry for name, entry in manifest.variants.items()}
    if variant not in known:
        raise RunError(f"{path} has no variant {variant}; it has {', '.join(known)}")
    opened = session.open_session(bundle.read(known[variant].file), known[variant].file)

    def answer(split: Split) -> Probabilities:
        return of_graph(opened, split, manifest.preprocessing, watcher)

    name = f"{manifest.name}/{manifest.version} {variant}"
    data_set = _same_classes(_data_of(bundle, data), manifest.labels)
    return Subject(name, manifest.labels, manifest.preprocessing, data_set, answer)


def _data_of(bundle: Bundle, data: Path | str | None) -> Dataset:
    """Open the data that the bundle was trained on, or a folder in its place."""
    settings = _recorded_data(bundle.manifest)
    if data is not None:
        settings = settings.model_copy(update={"path": str(Path(data).resolve())})
    return open_dataset(bundle.manifest.name, settings)


def _recorded_data(manifest: Manifest) -> Data:
    recorded = (manifest.lineage.recipe or {}).get("data")
    return Data.model_validate(recorded) if recorded else Data(source="folder")


def _same_classes(dataset: Dataset, labels: tuple[str, ...]) -> Dataset:
    if dataset.labels != labels:
        raise DataError(f"the data has the classes {', '.join(dataset.labels)}; the model has {', '.join(labels)}")
    return dataset
