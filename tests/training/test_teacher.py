"""A run that learns from another run's answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from training.answers import of_network
from training.data import open_dataset
from training.data.augment import Normalise
from training.data.feed import open_feed
from training.distributed import World
from training.errors import RecipeError, RunError
from training.recipe import parse_recipe
from training.runs import load_run
from training.teacher import Lesson, Prepared, find_teachers, prepare_lesson
from training.train import resume, train
from training.watcher import UNWATCHED, Watcher


def student(teacher, epochs=2, **sections):
    settings = {"epochs": epochs, "batch_size": 128, "teachers": [str(teacher)], "teacher_share": 1.0}
    return parse_recipe(
        {
            "model": {"name": "perceptron"},
            **sections,
            "train": {**settings, **sections.get("train", {})},
        }
    )


def test_the_loss_is_the_softened_divergence_from_the_teacher_and_the_rest_that_from_the_labels(tmp_path):
    settings = student(tmp_path, train={"teacher_share": 0.7, "teacher_temperature": 3.0}).train
    told, logits, losses = torch.randn(20, 10), torch.randn(5, 10), torch.rand(5)
    indices = torch.tensor([7, 0, 19, 3, 3])
    wanted = softmax(told[indices].numpy().astype(np.float64) / 3, axis=1)
    given = softmax(logits.numpy().astype(np.float64) / 3, axis=1)
    expected = 0.3 * losses.numpy() + 0.7 * 9 * rel_entr(wanted, given).sum(axis=1)
    lesson = Lesson(Prepared((told / 3).softmax(dim=1)), settings)
    assert np.allclose(lesson.blend(losses, logits, indices, logits).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_the_teachers_answer_every_training_image_and_its_mirror_image(tiny_run, flip):
    first, second = load_run(tiny_run), load_run(tiny_run)
    with torch.no_grad():
        second.model.head.bias[3] += 2.0
    recipe = student(tiny_run, augment={"flip": flip}, train={"teacher_temperature": 3.0})
    feed = open_feed(first.data.train, recipe)
    lessons = [prepare_lesson([first, second], feed, recipe, Half(rank), UNWATCHED) for rank in (0, 1)]
    everything = torch.arange(len(feed))
    halves = [lesson.answers(everything, torch.empty(0)).exp() for lesson in lessons]
    pixels = torch.cat([pixels for pixels, _ in feed.ordered()])
    x = Normalise(first.mean, first.std)(torch.cat([pixels, pixels.flip(2)] if flip else [pixels]))
    with torch.inference_mode():
        answers = torch.stack([(run.model(x) / 3).softmax(dim=1) for run in (first, second)])
    expected = answers.reshape(2, -1, len(pixels), 10).mean(dim=(0, 1))
    assert torch.allclose(halves[0] + halves[1], expected, atol=1e-5)
    assert (halves[0][1::2] < 1e-6).all() and (halves[1][::2] < 1e-6).all()  # two processes share the work


class Half(World):
    """One of two processes, whose sum is left to the test."""

    def __init__(self, rank):
        super().__init__(rank, 2)

    def sum(self, values):
        return values


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teachers_who_see_the_views_answer_what_the_student_is_shown(tiny_run, precision):
    first, second = load_run(tiny_run), load_run(tiny_run)
    with torch.no_grad():
        second.model.head.bias[3] += 2.0
    settings = {"teachers_see": "views", "teacher_temperature": 3.0, "precision": precision}
    lesson = prepare_lesson([first, second], None, student(tiny_run, train=settings), World(), UNWATCHED)
    x = torch.randn(5, *shape_of(first))
    with torch.inference_mode():
        expected = torch.stack([(run.model(x) / 3).softmax(dim=1) for run in (first, second)]).mean(dim=0)
    answers = lesson.answers(torch.arange(5), x)
    assert torch.allclose(answers.exp(), expected, atol=1e-5 if precision == "fp32" else 2e-2)
    logits = torch.zeros(5, 10, requires_grad=True)
    lesson.blend(torch.zeros(5), logits, torch.arange(5), x).sum().backward()
    assert logits.grad.abs().sum() > 0


def shape_of(run):
    preprocessing = run.recipe.input
    return (1 if preprocessing.color == "grey" else 3, preprocessing.height, preprocessing.width)


def test_a_student_of_such_teachers_learns_from_mixed_images_too(tiny_run, tmp_path):
    recipe = student(tiny_run, epochs=6, augment={"mixup": 0.2}, train={"teachers_see": "views"})
    run = load_run(train(recipe, runs=tmp_path))
    teacher = load_run(tiny_run)
    split, normalise = run.data.validation, Normalise(run.mean, run.std)
    one, other = (of_network(m, split, run.preprocessing, normalise).argmax(axis=1) for m in (run.model, teacher.model))
    assert (one == other).mean() > 0.7


def test_a_student_agrees_with_its_teacher_more_than_one_that_had_none(tiny_run, tmp_path):
    """Told nothing but the teacher's answers, it makes the teacher's mistakes too."""
    run = load_run(tiny_run)

    def answers(model):
        split, normalise = run.data.validation, Normalise(run.mean, run.std)
        return of_network(model, split, run.preprocessing, normalise).argmax(axis=1)

    taught = student(tiny_run, epochs=8)
    alone = taught.model_copy(update={"train": taught.train.model_copy(update={"teachers": ()})})
    agreement = [
        (answers(load_run(train(recipe, runs=tmp_path)).model) == answers(run.model)).mean()
        for recipe in (taught, alone)
    ]
    assert agreement[0] > agreement[1] and agreement[0] > 0.8


@pytest.mark.parametrize("see", ["images", "views"])
def test_a_student_that_was_stopped_resumes_with_its_teacher_to_the_same_result(tiny_run, tmp_path, see):
    class Stopping(Watcher):
        def epoch(self, epoch, epochs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(student(tiny_run, train={"teachers_see": see}), runs=tmp_path / "stopped", watcher=Stopping())
    [stopped] = (tmp_path / "stopped").iterdir()
    resume(stopped)
    whole = train(student(tiny_run, train={"teachers_see": see}), runs=tmp_path / "whole")
    weights = [load_run(path).model.state_dict() for path in (stopped, whole)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"input": {"height": 16, "width": 16}}, r"another \[input\]"),
        ({"data": {"validation_fraction": 0.2}}, "other splits"),
        ({"augment": {"mixup": 0.2}}, "whole images"),
        (
            {
                "input": {"height": 16, "width": 16},
                "train": {"teachers_see": "views", "small_fraction": 0.5, "small_side": 8},
            },
            "never saw images of 8 pixels",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_the_recipe_is_refused_before_a_run_folder_exists(
    tiny_run, tmp_path, sections, reason
):
    with pytest.raises(RunError, match=reason):
        train(student(tiny_run, **sections), runs=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "reason"), [({"labels": ("a", "b")}, "it knows a, b"), ({"fingerprint": "0" * 64}, "other data")]
)
def test_a_teacher_of_other_labels_or_data_is_refused(tiny_run, monkeypatch, changed, reason):
    recipe, run = student(tiny_run), replace(load_run(tiny_run), **changed)
    monkeypatch.setattr("training.teacher.load_run", lambda path: run)
    with pytest.raises(RunError, match=reason):
        find_teachers(recipe, open_dataset("digits", recipe.data))


def test_a_missing_teacher_and_one_that_cannot_answer_are_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere is not a run"):
        train(student(tmp_path / "nowhere"), runs=tmp_path)
    with pytest.raises(RecipeError, match="no mixup, cutmix, label_smoothing or teachers"):
        student(tmp_path, train={"loss": "hinge"})


def test_the_recipe_that_a_bundle_records_names_its_teacher_without_a_folder(tmp_path):
    recorded = student(tmp_path / "runs" / "first").portable()
    assert recorded["train"]["teachers"] == ["first"] and str(tmp_path) not in json.dumps(recorded)
