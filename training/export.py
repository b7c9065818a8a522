"""From a run to a bundle: exported, proved against PyTorch, measured through onnxruntime, published.

Nothing becomes visible before every proof has held: the parts are made in memory and published in one rename.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import numpy.typing as npt
import onnx
import torch
from bundle import session
from bundle.draft import TOLERANCE, Draft
from bundle.drift import baseline
from bundle.explain import cam_core
from bundle.front import Front
from bundle.graph import check, opset_of, seal
from bundle.manifest import ClassMetrics, Graph, Lineage, Metrics, Parity
from bundle.preprocess import preprocess
from bundle.stamp import Stamp
from scipy.special import softmax
from torch import nn

from training.bundle_report import REPORT_FILE, bundle_report
from training.core import export_core, front_of
from training.data.augment import Normalise
from training.data.tensors import Images, decode
from training.digests import DIGESTS_FILE, pack_digests
from training.errors import TrainingError
from training.evaluate import Evaluation, score
from training.proof import prove_cam, prove_parity
from training.runs import TrainedRun
from training.selection import BATCH, Chosen, Material, choose_variants
from training.temperature import fit_temperature
from training.watcher import UNWATCHED, Watcher

CHECKPOINT_FILE = "checkpoint.pt"
ROLES = {"logits": "logits", "embedding": "embedding"}
PARITY_IMAGES = 32
GOLDEN_MARGIN = 0.5
"""Golden images are clear cases: a variant that changes the answer to one is broken, not merely less precise."""
MAX_GOLDEN_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Exported:
    """A proved bundle before it is published, with its probabilities [n, classes] for the test split."""

    draft: Draft
    probabilities: npt.NDArray[np.float32]
    chosen: Chosen


def export(run: TrainedRun, watcher: Watcher = UNWATCHED) -> Exported:
    """Make and prove a bundle of a run's best weights. Raises a `ClearsightError` naming the proof that failed."""
    watcher.stage("sealing the graph")
    work = _Export(run)
    check(work.sealed)
    watcher.stage("proving parity with PyTorch")
    parity = work.parity()
    watcher.stage("making and measuring variants")
    chosen = choose_variants(work.material(), run.recipe.export)
    draft = Draft(
        name=run.recipe.name,
        labels=run.labels,
        preprocessing=run.preprocessing,
        graph=work.graph(),
        variants=chosen.variants,
        dropped=chosen.dropped,
        golden=dict(_golden(run, work.probabilities, chosen)),
        lineage=_lineage(run),
        temperature=work.temperature,
        explain=work.explain(),
        metrics=work.metrics(),
        parity=parity,
        drift=baseline(work.validation.pixels.numpy(), work.validation_probabilities, run.labels),
        extra_files={
            CHECKPOINT_FILE: _checkpoint(run),
            DIGESTS_FILE: pack_digests([run.data.train, run.data.validation]),
        },
    )
    draft.extra_files[REPORT_FILE] = bundle_report(run, draft, work.test_outputs)
    return Exported(draft, work.probabilities, chosen)


class _Export:
    """The intermediate results of one export, each made once, when first needed."""

    def __init__(self, run: TrainedRun) -> None:
        self.run = run
        self.size = (run.recipe.input.height, run.recipe.input.width)
        if not len(run.data.test):
            raise TrainingError("the test split is empty: there is nothing to measure the export on")

    @cached_property
    def validation(self) -> Images:
        return decode(self.run.data.validation, self.run.preprocessing)

    @cached_property
    def test(self) -> Images:
        return decode(self.run.data.test, self.run.preprocessing)

    @cached_property
    def core(self) -> onnx.ModelProto:
        return export_core(self.run.model, self.run.recipe.input.channels, self.size)

    @cached_property
    def front(self) -> Front:
        return front_of(self.run)

    @cached_property
    def validation_logits(self) -> npt.NDArray[np.float32]:
        """Logits do not depend on the temperature, so any seal will do."""
        plain = seal(self.core, self.front, ROLES, Stamp(self.run.labels))
        return _logits(plain.SerializeToString(), self.validation)

    @cached_property
    def temperature(self) -> float:
        return fit_temperature(self.validation_logits, self.validation.targets.numpy())

    @cached_property
    def stamp(self) -> Stamp:
        return Stamp(self.run.labels, temperature=self.temperature)

    @cached_property
    def sealed(self) -> onnx.ModelProto:
        return seal(self.core, self.front, ROLES, self.stamp)

    @cached_property
    def fp32(self) -> bytes:
        return bytes(self.sealed.SerializeToString())

    @cached_property
    def test_outputs(self) -> session.Outputs:
        return session.run(session.open_session(self.fp32), self.test.pixels.numpy(), batch_size=BATCH)

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        return self.test_outputs["probabilities"]

    @property
    def validation_probabilities(self) -> npt.NDArray[np.float32]:
        return softmax(self.validation_logits / np.float32(self.temperature), axis=1)  # type: ignore[no-any-return]

    def parity(self) -> Parity:
        normalise = Normalise(self.run.mean, self.run.std)
        rows = self.test.pixels.numpy()[:PARITY_IMAGES]
        return prove_parity(self.run.model, normalise, self.fp32, rows, self.temperature)

    def material(self) -> Material:
        return Material(
            core=self.core,
            front=self.front,
            roles=ROLES,
            stamp=self.stamp,
            fp32=self.fp32,
            calibration=_calibration_rows(self.run),
            validation=self.validation.pixels.numpy(),
            validation_targets=self.validation.targets.numpy(),
            test=self.test.pixels.numpy(),
            test_targets=self.test.targets.numpy(),
        )

    def explain(self) -> bytes | None:
        cam = cam_core(self.core, "logits") if self.run.model.cam else None
        if cam is None:
            return None
        raw = bytes(seal(cam, self.front, {"cam": "cam"}, self.stamp).SerializeToString())
        head = self.run.model.head
        assert isinstance(head, nn.Linear)
        prove_cam(raw, self.test.pixels.numpy()[:PARITY_IMAGES], self.test_outputs["logits"][:PARITY_IMAGES], head.bias)
        return raw

    def graph(self) -> Graph:
        return Graph(
            opset=opset_of(self.core),
            parameters=sum(p.numel() for p in self.run.model.parameters()),
            architecture=self.run.recipe.model.title,
            producer=f"torch {torch.__version__}",
        )

    def metrics(self) -> Metrics:
        targets, labels = self.test.targets.numpy(), self.run.labels
        figures = score(self.probabilities, targets, labels)
        before = score(softmax(self.test_outputs["logits"], axis=1), targets, labels)
        return _metrics(self.run.data.name, figures, before.ece)


def _logits(raw: bytes, images: Images) -> npt.NDArray[np.float32]:
    return session.run(session.open_session(raw), images.pixels.numpy(), batch_size=BATCH)["logits"]


def _metrics(dataset: str, figures: Evaluation, ece_uncalibrated: float) -> Metrics:
    return Metrics(
        dataset=dataset,
        split="test",
        n=figures.n,
        top1=figures.top1,
        top1_interval=figures.top1_interval,
        top5=figures.top5,
        loss=figures.loss,
        ece=figures.ece,
        ece_uncalibrated=ece_uncalibrated,
        per_class={label: ClassMetrics(**asdict(one)) for label, one in figures.per_class.items()},
    )


def _calibration_rows(run: TrainedRun) -> npt.NDArray[np.uint8]:
    """Take training images spread evenly over the split, as the graph takes them."""
    split = run.data.train
    chosen = np.linspace(0, len(split) - 1, min(run.recipe.export.calibration_images, len(split))).astype(int)
    return np.stack([preprocess(split.encoded(int(i)), run.preprocessing).pixels for i in chosen])


def _golden(run: TrainedRun, probabilities: npt.NDArray[np.float32], chosen: Chosen) -> Iterator[tuple[str, bytes]]:
    """Yield test images that the network is clear about, of as many predicted classes as there is room for."""
    ordered = np.sort(probabilities, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    # What a variant truly loses is its measured accuracy; golden images only have to show that it runs as it did here.
    for name, answers in chosen.answers.items():
        steady = np.abs(answers - probabilities).max(axis=1) <= TOLERANCE[name]["cpu"] / 2
        margins = np.where(steady, margins, margins - 1)
    clear = np.argsort(margins < GOLDEN_MARGIN, kind="stable")
    clear = clear if margins.max() >= GOLDEN_MARGIN else np.argsort(-margins, kind="stable")
    turn: dict[int, int] = {}
    ranked: list[tuple[int, int, int, int]] = []
    for index in clear.tolist():
        answer = int(probabilities[index].argmax())
        turn[answer] = turn.get(answer, 0) + 1
        ranked.append((turn[answer], len(ranked), index, answer))
    small = ((i, answer, run.data.test.encoded(i)) for _, _, i, answer in sorted(ranked))
    kept = ((answer, raw) for _, answer, raw in small if len(raw) <= MAX_GOLDEN_BYTES)
    for number, (answer, raw) in enumerate(islice(kept, run.recipe.export.golden_images)):
        yield f"{number:02d}-class{answer}.{preprocess(raw, run.preprocessing).info.format.lower()}", raw


def _checkpoint(run: TrainedRun) -> bytes:
    stream = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}, stream)
    return stream.getvalue()


def _lineage(run: TrainedRun) -> Lineage:
    environment = run.facts.get("environment", {})
    return Lineage(
        kind="trained",
        recipe=run.recipe.portable(),
        seed=run.recipe.train.seed,
        code=environment.get("code"),
        data_fingerprint=run.fingerprint,
        libraries=environment.get("libraries", {}) | {"onnx": onnx.__version__, "onnxruntime": session.RUNTIME},
        parent=run.parent,
    )
