import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from training.averaging import AveragedModel
from training.data import open_dataset
from training.data.augment import Normalise
from training.data.feed import MemoryFeed, StreamFeed, open_feed
from training.data.vary import Vary
from training.errors import RecipeError, RunError, TrainingError
from training.loss import class_weights, make_loss
from training.models import build
from training.optimizer import freeze, parameter_groups, train_mode
from training.pretrained import transfer
from training.recipe import Augment, Train, load_recipe, parse_recipe
from training.runs import load_run
from training.schedule import learning_rate_factor
from training.train import train
from training.whiten import whiten

FAST = {"epochs": 1, "batch_size": 256}


def trained(tmp_path, **sections):
    values = {"model": {"name": "perceptron"}, **sections, "train": {**FAST, **sections.get("train", {})}}
    return load_run(train(parse_recipe(values), runs=tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "learning_rate": 0.003},
        {"schedule": "cosine", "clip_norm": 1.0},
        {"schedule": "step", "step_at": [0.3]},
        {"loss": "hinge", "learning_rate": 0.01},
        {"balance": "loss"},
        {"balance": "sampling"},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": False},
        {"ema_decay": 0.9},
        {"label_smoothing": 0.1, "tensorboard": True},
        {"accumulate": 4},
    ],
    ids=lambda settings: ",".join(f"{k}={v}" for k, v in settings.items()),
)
def test_every_choice_of_the_recipe_learns(tmp_path, settings):
    run = trained(tmp_path, train={"epochs": 4, "batch_size": 64, **settings})
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert max(line["validation_accuracy"] for line in log) > 0.35
    assert (run.path / "tensorboard").exists() == bool(settings.get("tensorboard"))


@pytest.mark.parametrize(
    "augment",
    [
        {"randaugment": 5},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"mixup": 0.2, "cutmix": 1.0},
        {"erasing": 0.5},
        {"flip": True},
    ],
    ids=str,
)
def test_every_augmentation_trains(tmp_path, augment):
    assert trained(tmp_path, augment=augment).path.joinpath("test.json").exists()


def test_whitened_patches_vary_alike_in_all_directions_and_do_not_go_together():
    recipe = parse_recipe({"model": {"name": "vgg6_small"}})
    feed = open_feed(open_dataset("digits", recipe.data).train, recipe)
    model, normalise = build("vgg6_small", classes=10, channels=1, input_size=(8, 8)), Normalise((0.3,), (0.37,))
    whiten(model, feed, normalise)
    first = model.features[0].weight
    assert torch.equal(first[:9], -first[9:18])
    x = normalise(torch.cat([pixels for pixels, _ in feed.ordered()]))
    answers = torch.nn.functional.conv2d(x, first[:9], stride=3).permute(0, 2, 3, 1).flatten(0, 2)
    covariance = torch.cov(answers.T)
    strong = covariance.diagonal() > 0.5
    assert strong.sum() >= 7 and covariance.diagonal().max() < 1.2
    assert (covariance - covariance.diag().diag()).abs().max() < 0.1


def test_a_network_without_convolutions_cannot_be_whitened(tmp_path):
    with pytest.raises(RecipeError, match="has no convolution"):
        trained(tmp_path, train={"whiten": True})


def test_a_whitened_and_frozen_convolution_stays_as_it_began(tmp_path):
    run = trained(tmp_path, model={"name": "vgg6_small"}, train={"whiten": True, "freeze": ["features.0"]})
    first = run.model.features[0].weight
    assert torch.equal(first[:9], -first[9:18])


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(tmp_path):
    whole, parts = (trained(tmp_path, train={"accumulate": n}).model.state_dict() for n in (1, 3))
    assert all(torch.allclose(value, parts[name], atol=1e-5) for name, value in whole.items())


def test_a_compiled_network_learns_what_it_learns_otherwise(tmp_path):
    """With the backend that needs no C++ compiler: traced by torch.compile, the weights end up the same."""
    compiled = {"compile": True, "compile_backend": "aot_eager"}
    plain, traced = (trained(tmp_path, train=setting).model.state_dict() for setting in ({}, compiled))
    assert plain.keys() == traced.keys()
    assert all(torch.allclose(value, traced[name], atol=1e-5) for name, value in plain.items())


def test_without_a_compiler_the_error_says_what_to_set(tmp_path, monkeypatch):
    """A backend that finds no compiler stands in for inductor, whatever this machine has."""
    compiled = torch.compile

    def backend(graph, inputs):
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda model, **named: compiled(model, backend=backend))
    with pytest.raises(
        TrainingError, match=r"train\.compile: RuntimeError: no working C\+\+ compiler found; set train\.compile=false"
    ):
        trained(tmp_path, train={"compile": True})


def test_early_stopping_ends_after_patience_without_a_better_epoch(tmp_path):
    run = trained(tmp_path, train={"epochs": 50, "learning_rate": 1e-7, "patience": 3, "warmup_fraction": 0.0})
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert len(log) < 50
    assert not any(line["best"] for line in log[-3:]) and log[-4]["best"]


def test_mixed_targets_are_shares_of_classes():
    _, targets = Vary(Augment(mixup=0.2), 10).normalised(torch.randn(8, 1, 8, 8), torch.arange(8))
    assert targets.shape == (8, 10)
    assert torch.allclose(targets.sum(dim=1), torch.ones(8))


def test_class_weights_are_inverse_to_counts_and_one_on_average():
    targets = torch.tensor([0] * 90 + [1] * 10)
    weights = class_weights(targets, 2)
    assert weights[1] / weights[0] == pytest.approx(9.0)
    assert weights[targets].mean() == pytest.approx(1.0)


def test_the_hinge_loss_sums_the_margins_of_the_wrong_classes():
    loss = make_loss(Train(loss="hinge"), torch.tensor([0]), 3)
    assert loss(torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0])).item() == pytest.approx(2.9, abs=1e-5)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("one-cycle", 0.625, 0.0), ("cosine", 0.69, 0.0), ("step", 0.1, 0.01)]
)
def test_the_schedules_rise_and_fall(schedule, middle, end):
    train = Train(schedule=schedule, warmup_fraction=0.2)
    factors = [learning_rate_factor(step, 1000, train) for step in range(1000)]
    assert factors[0] < 0.01 and max(factors) == pytest.approx(1.0, abs=0.01)
    assert factors[500] == pytest.approx(middle, abs=0.01)
    assert factors[999] == pytest.approx(end, abs=0.011)
    assert all(factor > 0 for factor in factors)


def test_norms_and_biases_do_not_decay_and_parts_have_their_own_rate():
    model = build("resnet8", classes=10, channels=1, input_size=(8, 8))
    groups = parameter_groups(model, Train(weight_decay=0.1, rates={"stage1": 0.5}))
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
    assert all((g["weight_decay"] > 0) == (p.ndim > 1) for g in groups for p in g["params"])
    slow = {id(p) for g in groups if g["share"] == 0.5 for p in g["params"]}
    assert slow == {id(p) for p in model.stage1.parameters()}


def test_frozen_parts_stay_as_they_are_statistics_included(tmp_path):
    run = trained(tmp_path, model={"name": "resnet8"}, train={"freeze": ["conv", "bn", "stage1"]})
    torch.manual_seed(0)
    fresh = build("resnet8", classes=10, channels=1, input_size=(8, 8)).state_dict()
    same = {name for name, value in run.model.state_dict().items() if torch.equal(value, fresh[name])}
    assert {name for name in fresh if name.split(".")[0] in ("conv", "bn", "stage1")} <= same
    assert "head.weight" not in same


@pytest.mark.parametrize("setting", [{"freeze": ["layer9"]}, {"rates": {"layer9": 0.1}}], ids=["freeze", "rates"])
def test_a_part_that_the_network_has_not_is_refused(tmp_path, setting):
    with pytest.raises(RecipeError, match=r"no part layer9; it has body, head"):
        trained(tmp_path, train=setting)


def test_parts_are_named_by_dotted_prefixes_and_ranges():
    """VGG's stages lie in one numbered list: `features.0-3` is its first four layers."""
    model = build("vgg11_bn", classes=4, channels=3, input_size=(32, 32), stem="small")
    freeze(model, ("features.0-3", "features.8"))
    still = {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"features.0", "features.1", "features.8"}
    train_mode(model, ("features.0-3",))
    assert not model.features[1].training and model.features[5].training and model.features[9].training
    rates = {"features": 0.5, "features.4-7": 0.25, "features.4": 0.125}
    groups = parameter_groups(model, Train(rates=rates))
    shares = {id(p): g["share"] for g in groups for p in g["params"]}
    found = {name: shares[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert [found[f"features.{n}.weight"] for n in (4, 5, 11)] == [0.125, 0.25, 0.5]
    assert found["classifier.0.weight"] == 1.0


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("stage9", "no part stage9; it has conv, bn, stage1, stage2, stage3, head"),
        ("stage1.7", "no part stage1.7; stage1 has 0"),
        ("stage1.0.conv9", "no part stage1.0.conv9; stage1.0 has conv1, bn1, conv2, bn2"),
        ("stage1.0-3", "no part stage1.0-3; stage1 has 0"),
        ("stage1.3-0", "no part stage1.3-0; stage1 has 0"),
        ("conv.weight", "no part conv.weight; conv has no parts"),
    ],
)
def test_a_wrong_part_is_answered_with_those_there_are(part, words):
    model = build("resnet8", classes=10, channels=1, input_size=(8, 8))
    with pytest.raises(RecipeError) as error:
        freeze(model, (part,))
    assert words in error.value.detail


def test_the_average_follows_its_formula():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = AveragedModel(model, 0.5)
    torch.nn.init.ones_(model.weight)
    average.update(model)
    assert average.model.weight.item() == pytest.approx(0.9)  # decay 1/10 at first
    average.update(model)
    assert average.model.weight.item() == pytest.approx(1 - 0.1 * 2 / 11)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_pretrained_file_replaces_only_the_head(tmp_path, suffix):
    theirs = torchvision.models.resnet18(num_classes=7).state_dict()
    path = tmp_path / f"weights.{suffix}"
    save_file(theirs, path) if suffix == "safetensors" else torch.save(theirs, path)
    model = build("resnet18", classes=3, channels=3, input_size=(64, 64))
    found = transfer(model, "resnet18", str(path))
    assert found.replaced == found.skipped == ("fc.bias", "fc.weight")
    assert found.sentence() == "120 tensors loaded, 2 replaced, 2 skipped; fresh: fc.bias, fc.weight"
    assert len(found.loaded) == len(theirs) - 2
    assert torch.equal(model.layer4[1].conv2.weight, theirs["layer4.1.conv2.weight"])


def test_any_other_difference_of_pretrained_weights_is_an_error(tmp_path):
    theirs = torchvision.models.resnet18(num_classes=3).state_dict()
    for change, words in (
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, r"conv1\.weight is \(64, 1, 7, 7\)"),
        ({"extra": torch.zeros(1)}, "extra is unexpected"),
    ):
        torch.save({**theirs, **change}, tmp_path / "weights.pth")
        with pytest.raises(RunError, match=words):
            transfer(
                build("resnet18", classes=3, channels=3, input_size=(64, 64)), "resnet18", str(tmp_path / "weights.pth")
            )


def test_a_run_reports_what_it_took_from_pretrained_weights(tmp_path):
    torch.save(build("resnet8", classes=4, channels=1, input_size=(8, 8)).state_dict(), tmp_path / "weights.pth")
    run = trained(tmp_path / "runs", model={"name": "resnet8", "weights": str(tmp_path / "weights.pth")})
    assert run.facts["transfer"]["replaced"] == ["head.bias", "head.weight"]
    assert "conv.weight" in run.facts["transfer"]["loaded"]


def photographs(root: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(root / label / f"{label}{number}.png")
    return root


def test_streamed_images_are_the_same_pixels_as_those_in_memory(tmp_path):
    values = {"input": {"height": 16, "width": 16, "color": "rgb", "resize_size": 20}, "augment": {"flip": True}}
    recipe = parse_recipe({**values, "data": {"source": "folder", "path": str(photographs(tmp_path))}})
    split = open_dataset("made", recipe.data).train
    memory = open_feed(split, recipe)
    stream = StreamFeed(split, recipe.input.preprocessing(), recipe.augment, 2)
    assert isinstance(memory, MemoryFeed)
    for (left, _), (right, _) in zip(memory.ordered(batch_size=7), stream.ordered(batch_size=7), strict=True):
        assert torch.equal(left, right)


def test_streamed_crops_are_random_but_follow_from_the_seed(tmp_path):
    values = {"input": {"height": 16, "width": 16, "color": "rgb"}, "augment": {"flip": True, "scale": [1.0, 2.0]}}
    recipe = parse_recipe({**values, "data": {"source": "folder", "path": str(photographs(tmp_path))}})
    feed = open_feed(open_dataset("made", recipe.data).train, recipe)
    assert isinstance(feed, StreamFeed)
    order = list(torch.split(torch.arange(len(feed)), 8))
    first, again, other = (torch.cat([pixels for pixels, _ in feed.augmented(order, seed)]) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (len(feed), 16, 16, 3)


def test_photographs_train_from_a_stream(tmp_path):
    recipe = parse_recipe(
        {
            "data": {"source": "folder", "path": str(photographs(tmp_path / "photos")), "loading": "stream"},
            "input": {"height": 16, "width": 16, "color": "rgb"},
            "augment": {"scale": [1.0, 1.5], "flip": True},
            "model": {"name": "resnet8"},
            "train": FAST,
        }
    )
    assert load_run(train(recipe, runs=tmp_path / "runs")).labels == ("a", "b")


def test_two_processes_train_as_one_does(tmp_path):
    """torchrun with gloo: the weights and metrics of one process, over uneven shards, and one writer."""
    overrides = ["train.epochs=6", "train.batch_size=127", "model.name=perceptron", "augment.crop_padding=0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "training"]
    command += ["train", "digits", "--runs", str(tmp_path / "two")]
    command += [part for override in overrides for part in ("--set", override)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    [two] = (tmp_path / "two").iterdir()
    assert done.stdout.count("epoch   6/6") == 1
    one = train(load_recipe("digits", overrides), runs=tmp_path / "one")
    lines = [json.loads((run / "log.jsonl").read_text().splitlines()[-1]) for run in (one, two)]
    for figure in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
        assert lines[0][figure] == pytest.approx(lines[1][figure], abs=0.02)
    weights = [load_run(run).model.state_dict() for run in (one, two)]
    assert all(torch.allclose(value, weights[1][name], atol=1e-4) for name, value in weights[0].items())
