import math

import pytest

from training.reading import compare_losses, compare_models, read_curves
from training.recipe import Model, parse_recipe


def history(epochs, train_loss, validation_loss, train_accuracy, validation_accuracy):
    """A made log: each curve is a function of the share of the epochs done, 0..1."""
    shares = [n / (epochs - 1) for n in range(epochs)]
    return [
        {
            "epoch": n + 1,
            "train_loss": train_loss(t),
            "validation_loss": validation_loss(t),
            "train_accuracy": train_accuracy(t),
            "validation_accuracy": validation_accuracy(t),
        }
        for n, t in enumerate(shares)
    ]


def falling(t):
    return 2.0 * math.exp(-4 * t) + 0.1


def rising(t):
    return 0.95 - 0.8 * math.exp(-4 * t)


def flat_after(start, value):
    return lambda t: value + max(0.0, start - t) * 3


MADE = {
    "over-fitting from epoch 8": history(
        20, falling, lambda t: 0.6 + (t - 0.32) ** 2 * 2, rising, lambda t: 0.8 - (t - 0.32) ** 2 * 0.1
    ),
    "learning rate too high": history(
        20, lambda t: 2.0 + math.sin(t * 40), lambda t: 2.3, lambda t: 0.15, lambda t: 0.12 + 0.01 * math.cos(50 * t)
    ),
    "suspiciously perfect": history(20, falling, lambda t: 0.001, rising, lambda t: 1.0),
    "capacity too small": history(
        20,
        flat_after(0.3, 1.4),
        flat_after(0.3, 1.42),
        lambda t: 0.5 - max(0, 0.3 - t),
        lambda t: 0.49 - max(0, 0.3 - t),
    ),
    "still improving": history(
        20, lambda t: 2 - t, lambda t: 2.1 - t, lambda t: 0.2 + 0.7 * t, lambda t: 0.2 + 0.65 * t
    ),
    "settled": history(
        20,
        flat_after(0.5, 0.2),
        flat_after(0.5, 0.3),
        lambda t: 0.95 - max(0, 0.5 - t),
        lambda t: 0.9 - max(0, 0.5 - t),
    ),
}


@pytest.mark.parametrize("words", MADE)
def test_each_shape_of_curves_has_its_reading(words):
    assert any(said.startswith(words) for said in read_curves(MADE[words])), read_curves(MADE[words])


@pytest.mark.parametrize("words", MADE)
def test_a_reading_is_not_given_to_other_curves(words):
    kind = words.split(" from ")[0]
    others = [name for name in MADE if name != words]
    assert not any(said.startswith(kind) for name in others for said in read_curves(MADE[name]))


def test_two_epochs_are_too_short_to_read():
    assert "too short" in read_curves(MADE["settled"][:2])[0]


def test_a_warm_start_that_recovers_from_its_first_steps_is_no_complaint():
    warm = history(24, lambda t: 0.34 if t == 0 else 0.6 - 0.4 * t, lambda t: 0.4 - 0.07 * t, rising, rising)
    assert not any("learning rate" in said for said in read_curves(warm))


def test_one_jump_without_recovery_is_a_learning_rate_too_high():
    lost = history(30, lambda t: 1.0 if t < 0.5 else 2.3, lambda t: 2.3, lambda t: 0.1, lambda t: 0.1)
    [said] = [said for said in read_curves(lost) if "learning rate" in said]
    assert "has not come down again since it rose in epoch 16" in said


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, []),
        ({"train": {"label_smoothing": 0.1}}, ["label smoothing"]),
        ({"train": {"teachers": ["runs/one"]}}, ["the distance to the teachers' answers"]),
        ({"augment": {"cutmix": 1.0}, "train": {"label_smoothing": 0.1}}, ["label smoothing", "mixed images"]),
        ({"train": {"balance": "loss"}}, ["weights of the classes"]),
    ],
    ids=["plain", "smoothed", "taught", "mixed", "weighted"],
)
def test_a_training_loss_of_another_kind_is_not_to_be_compared(recipe, said):
    found = compare_losses(parse_recipe({"model": {"name": "resnet8"}, **recipe}))
    assert len(found) == bool(said)
    assert all(what in found[0] for what in said)


def test_curves_of_another_network_than_the_figures_are_said_to_be_so():
    plain = Model()
    assert compare_models(plain, plain) == compare_models(plain.mirrored(), plain.mirrored()) == []
    (said,) = compare_models(plain, plain.mirrored())
    assert "model.mirror" in said and "the curves are of the image alone" in said
