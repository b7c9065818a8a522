"""The gate lets a candidate through only within every budget, and compares nothing that cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest
from factory import color_draft, color_image

from bundle.store import Store
from training.data.dataset import Item, Split
from training.digests import DIGESTS_FILE, pack_digests
from training.errors import GateRefusal
from training.export import Exported
from training.gate import first_version, judge
from training.recipe import Gate
from training.selection import Chosen

COLORS = ("red", "green", "blue")
WIDE = Gate(max_latency_ratio=100.0)


def items(count, start=0):
    """Differently sized images of three colours: every one has bytes of its own."""
    import hashlib

    found = []
    for i in range(start, start + count):
        raw = color_image(COLORS[i % 3], (8 + i % 40, 8 + i // 40))
        found.append(Item(lambda raw=raw: raw, hashlib.sha256(raw).hexdigest(), i % 3, f"image {i}"))
    return found


HELD_OUT = Split(items(90))
LEARNED = Split(items(30, start=200))


@pytest.fixture
def champion(tmp_path):
    draft = color_draft()
    draft.extra_files[DIGESTS_FILE] = pack_digests([LEARNED])
    store = Store(tmp_path)
    draft.publish(store)
    store.promote("colors", 1)
    return store.open("colors")


def right(wrong=(), confidence=0.99):
    """Probabilities that are right for every held-out image but those."""
    rows = np.full((len(HELD_OUT), 3), (1 - confidence) / 2, np.float32)
    for i, target in enumerate(HELD_OUT.targets()):
        rows[i, (target + (i in wrong)) % 3] = confidence
    return rows


def candidate(probabilities, learned=LEARNED, **changes):
    draft = color_draft()
    draft.extra_files[DIGESTS_FILE] = pack_digests([learned])
    for name, value in changes.items():
        setattr(draft, name, value)
    return Exported(draft, probabilities, Chosen(draft.variants))


def failed(judgement):
    return [check["name"] for check in judgement.numbers["checks"] if not check["passed"]]


def test_an_equal_candidate_becomes_champion(champion):
    judgement = judge(champion, candidate(right()), HELD_OUT, WIDE)
    assert judgement.verdict.outcome == "champion"
    assert judgement.numbers["paired"]["n"] == 90
    assert judgement.numbers["champion_scores"]["top1"] == 1.0
    assert judgement.verdict.champion == 1


def test_a_significantly_worse_candidate_is_kept(champion):
    judgement = judge(champion, candidate(right(wrong=range(12))), HELD_OUT, WIDE)
    assert judgement.verdict.outcome == "candidate"
    assert {"accuracy", "significance"} <= set(failed(judgement))
    assert "12 images only the champion gets right" in judgement.verdict.reason


def test_a_small_loss_within_its_budget_passes(champion):
    budget = WIDE.model_copy(update={"max_top1_drop": 0.05})
    assert judge(champion, candidate(right(wrong=[0])), HELD_OUT, budget).verdict.outcome == "champion"
    assert judge(champion, candidate(right(wrong=[0])), HELD_OUT, WIDE).verdict.outcome == "candidate"


def test_a_large_budget_does_not_excuse_a_significant_loss(champion):
    budget = WIDE.model_copy(update={"max_top1_drop": 0.5, "max_class_recall_drop": 0.9, "max_ece_rise": 0.9})
    assert failed(judge(champion, candidate(right(wrong=range(12))), HELD_OUT, budget)) == ["significance"]


def test_no_class_may_pay_for_the_others(champion):
    budget = WIDE.model_copy(update={"max_top1_drop": 0.5, "significance": 1e-9, "max_ece_rise": 0.9})
    reds = [i for i in range(90) if i % 3 == 0][:5]
    judgement = judge(champion, candidate(right(wrong=reds)), HELD_OUT, budget)
    assert failed(judgement) == ["classes"]
    assert "the class that fares worst is red" in judgement.verdict.reason


def test_confidence_must_stay_honest(champion):
    judgement = judge(champion, candidate(right(confidence=0.6)), HELD_OUT, WIDE)
    assert failed(judgement) == ["calibration"]


def test_a_candidate_that_is_too_large_or_slow_is_kept(champion):
    budget = WIDE.model_copy(update={"max_size_ratio": 0.5, "max_latency_ratio": 1e-6})
    assert failed(judge(champion, candidate(right()), HELD_OUT, budget)) == [
        "latency at batch 1",
        "latency at batch 16",
        "size",
    ]


@pytest.mark.parametrize("who", ["candidate", "champion"])
def test_images_that_either_learned_from_decide_nothing(champion, who, tmp_path):
    leak = Split([*LEARNED.items, HELD_OUT.items[7]])
    if who == "champion":
        draft = color_draft()
        draft.extra_files[DIGESTS_FILE] = pack_digests([leak])
        champion = draft.publish(Store(tmp_path))
    made = candidate(right(), learned=leak if who == "candidate" else LEARNED)
    with pytest.raises(GateRefusal, match=f"1 of 90 held-out images are among those the {who} learned from.*image 7"):
        judge(champion, made, HELD_OUT, WIDE)


def test_other_labels_cannot_be_compared(champion):
    with pytest.raises(GateRefusal, match="the champion answers red, green, blue; the candidate a, b, c"):
        judge(champion, candidate(right(), labels=("a", "b", "c")), HELD_OUT, WIDE)


def test_nothing_held_out_cannot_be_compared(champion):
    with pytest.raises(GateRefusal, match="no held-out images"):
        judge(champion, candidate(right()), Split([]), WIDE)


def test_a_first_version_has_nobody_to_beat():
    assert first_version().verdict.outcome == "champion"
