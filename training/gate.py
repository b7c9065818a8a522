"""The promotion gate: may a candidate take the champion's place?

Both answer the same held-out images through onnxruntime. The candidate passes when it is not less accurate than its
budget allows and not significantly worse, when no class pays for the others, and when it is neither badly calibrated,
slow nor large. Every number lands in the verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from bundle import session
from bundle.manifest import Verdict
from bundle.store import Bundle

from training.answers import of_graph
from training.data import Split
from training.data.tensors import decode
from training.digests import DIGESTS_FILE, leaked
from training.errors import GateRefusal
from training.evaluate import Evaluation, score
from training.export import Exported
from training.latency import measure_latency
from training.paired import Paired, compare
from training.recipe import Gate

VERDICT_FILE = "verdict.json"
VERDICT_SCHEMA = "clearsight.verdict/1"
LATENCY_BATCH_SIZES = (1, 16)


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate, with the numbers that answered it."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's answer: the short verdict for `bundle.json` and all numbers for `verdict.json`."""

    verdict: Verdict
    numbers: dict[str, Any]

    def to_json(self) -> bytes:
        """Return the bytes of `verdict.json`."""
        return (json.dumps(self.numbers, indent=1) + "\n").encode()


def judge(champion: Bundle, candidate: Exported, held_out: Split, budget: Gate) -> Judgement:
    """Compare a candidate with the champion on held-out images, [n] of them in the candidate's order.

    Raises `GateRefusal` when they cannot be compared fairly: other labels, or images that either has learned from.
    """
    _refuse_unfair(champion, candidate, held_out)
    targets = np.array(held_out.targets())
    labels = candidate.draft.labels
    answers = (_answers(champion, held_out), candidate.probabilities)
    scores = [score(probabilities, targets, labels) for probabilities in answers]
    paired = compare(answers[0].argmax(axis=1), answers[1].argmax(axis=1), targets)
    seconds = _seconds(champion, candidate, held_out)
    sizes = (champion.manifest.files["model.onnx"].bytes, len(candidate.draft.variants["fp32"].raw))
    checks = [
        *_accuracy(paired, budget),
        _classes(scores[0], scores[1], budget),
        _calibration(scores[0].ece, scores[1].ece, budget),
        *[_ratio(f"latency at batch {n}", seconds[0][n] * 1e3, seconds[1][n] * 1e3, budget.max_latency_ratio, "ms")
          for n in LATENCY_BATCH_SIZES],
        _ratio("size", sizes[0] / 1e6, sizes[1] / 1e6, budget.max_size_ratio, "MB"),
    ]  # fmt: skip
    verdict = _verdict(champion.manifest.version, checks, paired)
    numbers = {
        "schema": VERDICT_SCHEMA,
        **verdict.model_dump(mode="json"),
        "dataset": candidate.draft.metrics.dataset if candidate.draft.metrics else None,
        "paired": asdict(paired),
        "champion_scores": scores[0].to_json(),
        "candidate_scores": scores[1].to_json(),
        "latency_seconds": {"champion": seconds[0], "candidate": seconds[1]},
        "bytes": {"champion": sizes[0], "candidate": sizes[1]},
        "budget": budget.model_dump(),
        "champion_training_list_checked": DIGESTS_FILE in champion.manifest.files,
        "checks": [asdict(check) for check in checks],
    }
    return Judgement(verdict, numbers)


def first_version() -> Judgement:
    """Return the verdict on a model that has no champion yet."""
    verdict = Verdict(outcome="champion", champion=None, reason="It is the first version: there is no champion yet.")
    return Judgement(verdict, {"schema": VERDICT_SCHEMA, **verdict.model_dump(mode="json"), "checks": []})


def _refuse_unfair(champion: Bundle, candidate: Exported, held_out: Split) -> None:
    ours, theirs = (", ".join(labels) for labels in (candidate.draft.labels, champion.manifest.labels))
    if champion.manifest.labels != candidate.draft.labels:
        raise GateRefusal(f"the champion answers {theirs}; the candidate {ours}: they cannot be compared")
    if not len(held_out):
        raise GateRefusal("there are no held-out images to compare on")
    lists = {"candidate": candidate.draft.extra_files[DIGESTS_FILE]}
    if DIGESTS_FILE in champion.manifest.files:
        lists["champion"] = champion.read(DIGESTS_FILE)
    for who, packed in lists.items():
        if found := leaked(held_out, packed):
            raise GateRefusal(
                f"{len(found)} of {len(held_out)} held-out images are among those the {who} learned from, the first"
                f" being {held_out.origin(found[0])}: a comparison on them would mean nothing"
            )


def _answers(champion: Bundle, held_out: Split) -> npt.NDArray[np.float32]:
    opened = session.open_session(champion.read(champion.manifest.variants["fp32"].file))
    return of_graph(opened, held_out, champion.manifest.preprocessing)


def _seconds(champion: Bundle, candidate: Exported, held_out: Split) -> tuple[dict[int, float], dict[int, float]]:
    """Measure both in turns; of each, the fastest round counts, because disturbance only ever adds."""
    few = Split(held_out.items[:1])
    rows = [
        decode(few, recipe).pixels.numpy()[0]
        for recipe in (champion.manifest.preprocessing, candidate.draft.preprocessing)
    ]
    graphs = {
        "champion": (champion.read(champion.manifest.variants["fp32"].file), rows[0]),
        "candidate": (candidate.draft.variants["fp32"].raw, rows[1]),
    }
    found = measure_latency(graphs, LATENCY_BATCH_SIZES)
    fastest = {name: {size: min(rounds) for size, rounds in by_size.items()} for name, by_size in found.items()}
    return fastest["champion"], fastest["candidate"]


def _accuracy(paired: Paired, budget: Gate) -> Iterator[Check]:
    low, high = paired.interval
    yield Check(
        "accuracy",
        paired.difference >= -budget.max_top1_drop,
        f"top-1 differs by {paired.difference:+.4f} (95 % {low:+.4f} to {high:+.4f}, n {paired.n});"
        f" it may lose {budget.max_top1_drop:g}",
    )
    worse = paired.difference < 0 and paired.p_value < budget.significance
    yield Check(
        "significance",
        not worse,
        f"{paired.first_only} images only the champion gets right, {paired.second_only} only the candidate;"
        f" McNemar's p is {paired.p_value:.3g}",
    )


def _classes(champion: Evaluation, candidate: Evaluation, budget: Gate) -> Check:
    counted = {n: c for n, c in candidate.per_class.items() if c.support >= budget.min_class_images}
    drops = {name: champion.per_class[name].recall - one.recall for name, one in counted.items()}
    if not drops:
        return Check("classes", True, f"no class has {budget.min_class_images} held-out images; none was judged")
    worst = max(drops, key=lambda name: drops[name])
    passed = drops[worst] <= budget.max_class_recall_drop
    return Check(
        "classes",
        passed,
        f"the class that fares worst is {worst}: its recall changes by {-drops[worst]:+.4f};"
        f" one may lose {budget.max_class_recall_drop:g}",
    )


def _calibration(champion: float, candidate: float, budget: Gate) -> Check:
    return Check(
        "calibration",
        candidate - champion <= budget.max_ece_rise,
        f"the calibration error goes from {champion:.4f} to {candidate:.4f}; it may rise by {budget.max_ece_rise:g}",
    )


def _ratio(name: str, champion: float, candidate: float, limit: float, unit: str) -> Check:
    return Check(
        name,
        candidate <= champion * limit,
        f"{name} goes from {champion:.3f} to {candidate:.3f} {unit}; it may grow to {limit:g} times",
    )


def _verdict(champion: int, checks: list[Check], paired: Paired) -> Verdict:
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = "Kept as a candidate: " + "; ".join(check.sentence for check in failed) + "."
        return Verdict(outcome="candidate", champion=champion, reason=reason)
    low, high = paired.interval
    return Verdict(
        outcome="champion",
        champion=champion,
        reason=f"Not worse than version {champion} on {paired.n} held-out images: top-1 differs by"
        f" {paired.difference:+.4f} (95 % {low:+.4f} to {high:+.4f}), within every other budget too.",
    )
