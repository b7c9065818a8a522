from training.__main__ import main
from training.finders import find_rate
from training.recipe import load_recipe

FAST = ["model.name=perceptron", "train.batch_size=32"]


def test_the_suggested_rate_lies_below_where_the_loss_is_least_and_learns():
    trial = find_rate(load_recipe("digits", FAST), steps=60)
    assert list(trial.rates) == sorted(trial.rates)
    assert 1e-4 < trial.suggested < 1.0
    assert min(trial.losses) < trial.losses[0]


def test_find_rate_draws_and_says_what_to_set(tmp_path, capsys):
    settings = [part for value in FAST for part in ("--set", value)]
    assert main(["find", "rate", "digits", "--steps", "30", "--plot", str(tmp_path / "rates.png"), *settings]) == 0
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert "--set train.learning_rate=" in capsys.readouterr().out


def test_find_batch_measures_and_says_what_to_set(capsys):
    assert main(["find", "batch", "digits", "--set", "model.name=perceptron"]) == 0
    printed = capsys.readouterr().out
    assert "batch     8:" in printed and "--set train.batch_size=" in printed
