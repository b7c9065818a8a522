import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from training.errors import DataError, RunError, TrainingError
from training.recipe import load_recipe
from training.runs import load_run
from training.train import resume, train


def test_a_run_leaves_its_configuration_log_curves_checkpoints_and_test_figures(tiny_run):
    assert {p.name for p in tiny_run.iterdir()} == {
        *("run.json", "log.jsonl", "best.pt", "last.pt", "test.json", "curves.png", "report.html")
    }
    log = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]
    assert log[-1]["train_loss"] < log[0]["train_loss"]


def test_a_run_reads_back_with_its_best_weights(tiny_run):
    run = load_run(tiny_run)
    assert len(run.labels) == 10 and not run.model.training
    best = torch.load(tiny_run / "best.pt", weights_only=True)
    assert all(torch.equal(value, best[name]) for name, value in run.model.state_dict().items())
    assert run.data.fingerprint == run.fingerprint


def test_a_finished_run_is_resumed_without_another_epoch_or_test(tiny_run):
    before = {p.name: p.stat().st_mtime_ns for p in tiny_run.iterdir()}
    assert resume(tiny_run) == tiny_run
    assert {p.name: p.stat().st_mtime_ns for p in tiny_run.iterdir()} == before


def test_a_run_killed_at_any_moment_resumes_to_the_same_result(tmp_path):
    """kill -9 after the second of four epochs; the log and the weights equal those of an unbroken run."""
    overrides = ["model.name=resnet8", "train.epochs=4", "train.batch_size=128", "train.ema_decay=0.9"]
    whole = train(load_recipe("digits", overrides), runs=tmp_path / "whole")
    command = [sys.executable, "-m", "training", "train", "digits", "--runs", str(tmp_path / "killed")]
    command += [part for override in overrides for part in ("--set", override)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on the number of threads
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if "  2/4" in line:
                os.kill(process.pid, signal.SIGKILL)
    [killed] = (tmp_path / "killed").iterdir()
    assert not (killed / "test.json").exists()
    resume(killed)
    figures = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, killed)]
    for line in figures[0] + figures[1]:
        del line["seconds"], line["images_per_second"]
    assert figures[0] == figures[1]
    assert (whole / "test.json").read_text() == (killed / "test.json").read_text()
    weights = [load_run(run).model.state_dict() for run in (whole, killed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_run_is_not_resumed_on_other_data(tiny_run, tmp_path):
    facts = json.loads((tiny_run / "run.json").read_text())
    facts["data"]["fingerprint"] = "0" * 64
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="data has changed"):
        resume(tmp_path)


def test_a_warm_start_begins_where_the_weights_are(tiny_run, tmp_path, tiny_recipe):
    weights = load_run(tiny_run).model.state_dict()
    slow = tiny_recipe.model_copy(update={"train": tiny_recipe.train.model_copy(update={"learning_rate": 1e-6})})
    run = load_run(train(slow, runs=tmp_path, warm_start=weights, parent=3))
    assert run.parent == 3
    assert torch.allclose(run.model.head.weight, weights["head.weight"], atol=1e-3)


def test_weights_that_do_not_fit_are_refused_by_tensor(tmp_path, tiny_recipe):
    with pytest.raises(RunError, match=r"conv\.weight is missing"):
        train(tiny_recipe, runs=tmp_path, warm_start={"other": torch.zeros(1)})


def test_a_loss_that_is_no_number_stops_the_run_with_advice(tmp_path, tiny_recipe):
    wild = tiny_recipe.model_copy(update={"train": tiny_recipe.train.model_copy(update={"learning_rate": 1e9})})
    with pytest.raises(TrainingError, match=r"lower train\.learning_rate"):
        train(wild, runs=tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"no run\.json"):
        load_run(tmp_path)


def test_training_leaves_the_arithmetic_of_the_process_as_it_was(tmp_path, tiny_recipe):
    train(tiny_recipe, runs=tmp_path)
    assert np.float32(1e-45) * np.float32(1) > 0


def test_training_without_validation_images_is_refused(tmp_path, tiny_recipe):
    none = tiny_recipe.model_copy(update={"data": tiny_recipe.data.model_copy(update={"validation_fraction": 0.0})})
    with pytest.raises(DataError, match="validation split is empty"):
        train(none, runs=tmp_path)
    assert not list(tmp_path.iterdir())
