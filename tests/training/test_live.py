import io

import pytest
from rich.console import Console

from training.live import Live
from training.recipe import load_recipe
from training.train import train
from training.watcher import Batch, Epoch, Watcher

EPOCH = Epoch(2, 0.5, 0.8, 0.6, 0.75, 0.1, 4.0, 250.0, best=True)
LINE = "epoch   2/3  train 0.5000 0.8000  validation 0.6000 0.7500*  250 images/s"


def shown(terminal, *calls):
    """Return what each call left behind on a console of 100 columns."""
    written, screens = io.StringIO(), []
    with Live(Console(file=written, force_terminal=terminal, width=100, highlight=False)) as live:
        for method, *arguments in calls:
            getattr(live, method)(*arguments)
            if terminal:
                live.bar.refresh()
            screens.append(written.getvalue()[sum(map(len, screens)) :])
    return screens


def test_a_terminal_sees_epoch_batch_speed_loss_and_the_time_left():
    batches = [("batch", Batch(2, 3, n, 10, 100 * n, 0.5, n / 2)) for n in (5, 6)]
    for screen in shown(True, *batches):
        for words in ("epoch 2/3", "/10", "200 images/s", "loss 0.5000", "ETA"):
            assert words in screen
    assert "batch 6/10" in screen and "batch 5/10" not in screen


def test_a_terminal_sees_a_pass_over_images_and_keeps_the_lines_of_epochs():
    first, second = shown(True, ("images", "evaluating", 512, 2048), ("epoch", EPOCH, 3))
    assert "evaluating" in first and "512/2,048 images" in first
    assert LINE in second


def test_where_there_is_no_terminal_only_plain_lines_are_printed():
    calls = [("stage", "opening the data"), ("batch", Batch(1, 3, 5, 10, 500, 0.5, 2.5)), ("images", "x", 1, 2)]
    assert shown(False, *calls, ("epoch", EPOCH, 3)) == ["opening the data\n", "", "", f"{LINE}\n"]


def test_a_run_tells_its_watcher_of_every_batch(tmp_path):
    class Told(Watcher):
        def __init__(self):
            self.batches, self.epochs = [], []

        def batch(self, batch):
            self.batches.append(batch)

        def epoch(self, epoch, epochs):
            self.epochs.append(epoch)

    told = Told()
    recipe = load_recipe(
        "digits", ["model.name=linear", "train.epochs=2", "train.batch_size=300", "train.ema_decay=0.0"]
    )
    train(recipe, runs=tmp_path, watcher=told)
    count = told.batches[0].batches
    assert [(b.epoch, b.number) for b in told.batches] == [(e, n) for e in (1, 2) for n in range(1, count + 1)]
    last = told.batches[-1]
    assert last.images > 300 * (count - 1) and last.images_per_second > 0
    assert last.loss == pytest.approx(told.epochs[-1].train_loss, abs=1e-4)
