import json

import numpy as np
import pytest

from training.__main__ import main
from training.errors import TrainingError
from training.evaluate import score


def test_the_score_of_made_answers_is_right():
    """Three of four right, the sure ones among them: figures by hand."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    figures = score(probabilities, np.array([0, 0, 1, 0]), ("a", "b"))
    assert (figures.n, figures.top1, figures.top5) == (4, 0.75, 1.0)
    assert figures.per_class["a"].recall == pytest.approx(2 / 3)
    assert figures.per_class["a"].recall_interval == pytest.approx((0.2077, 0.9385), abs=1e-4)
    assert figures.per_class["b"].precision == 0.5
    assert figures.top1_interval == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert figures.ece == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4, abs=1e-6)
    assert figures.confusion == ((2, 1), (0, 1))
    assert figures.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert figures.roc_auc == pytest.approx(2 / 3)


def test_top_5_counts_the_five_largest():
    probabilities = np.tile(np.linspace(0.3, 0.01, 7), (3, 1))
    figures = score(probabilities / probabilities.sum(axis=1, keepdims=True), np.array([0, 4, 5]), tuple("abcdefg"))
    assert (figures.top1, figures.top5) == (1 / 3, 2 / 3)
    assert figures.roc_auc is None


def test_an_accuracy_that_misleads_is_called_so():
    """98 of 100 are negative and the model always says negative: accuracy 98 %, recall of the rest 0."""
    probabilities = np.tile([0.99, 0.01], (100, 1))
    figures = score(probabilities, np.array([0] * 98 + [1] * 2), ("negative", "positive"))
    assert figures.top1 == 0.98
    assert figures.per_class["positive"].recall == 0
    assert figures.balanced_accuracy == 0.5
    assert any("accuracy misleads" in w and "98.0%" in w and "50.0%" in w for w in figures.warnings)
    assert any("positive is never recognised" in w for w in figures.warnings)


def test_an_honest_accuracy_has_no_warning():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]] * 10)
    assert not score(probabilities, np.array([0, 1] * 10), ("a", "b")).warnings


@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (0, 2)], ids=["images", "classes", "none"])
def test_a_score_of_shapes_that_disagree_is_refused(shape):
    with pytest.raises(TrainingError, match="do not fit"):
        score(np.zeros(shape), np.zeros(4 if shape[0] else 0, np.int64), ("a", "b"))


def test_evaluate_writes_every_images_answer(tiny_run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["evaluate", str(tiny_run), "--json", str(tmp_path / "answers.json"), "--html", str(page)]) == 0
    assert "Confusion matrix" in page.read_text() and "Curves" not in page.read_text()
    written = json.loads((tmp_path / "answers.json").read_text())
    tested = json.loads((tiny_run / "test.json").read_text())
    assert written["evaluation"]["top1"] == tested["top1"]
    assert len(written["images"]) == tested["n"]
    assert np.mean([i["top1"] == i["target"] for i in written["images"]]) == pytest.approx(tested["top1"])
    assert all(np.argmax(i["probabilities"]) == i["top1"] for i in written["images"])
    assert f"top-1 {tested['top1']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "nowhere"], "neither a run"),
        (["train"], "give a recipe"),
        (["train", "nonesuch"], "no such recipe"),
        (["train", "digits", "--set", "train.epochs=0"], "greater than or equal to 1"),
        (["train", "digits", "--set", "model.name=perceptron", "--set", "model.mirror=true"], "cannot answer for"),
        (["train", "--resume", "nowhere"], "is not a run"),
    ],
    ids=" ".join,
)
def test_a_command_that_cannot_be_done_says_why_in_one_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_evaluate_refuses_images_of_other_classes(tiny_run, tmp_path, capsys):
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "one.png").write_bytes(b"x")
    assert main(["evaluate", str(tiny_run), "--data", str(tmp_path)]) == 0, "the digits come with a library"
    facts = json.loads((tiny_run / "run.json").read_text())
    facts["recipe"]["data"]["source"] = "folder"
    moved = tmp_path.parent / f"{tmp_path.name}-run"
    moved.mkdir()
    (moved / "run.json").write_text(json.dumps(facts))
    (moved / "best.pt").write_bytes((tiny_run / "best.pt").read_bytes())
    capsys.readouterr()
    assert main(["evaluate", str(moved), "--data", str(tmp_path)]) == 2
    assert "the model has 0, 1, 2" in capsys.readouterr().err
