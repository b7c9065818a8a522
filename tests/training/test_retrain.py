"""The retrain job: better or equal takes over, worse stays a candidate, and a kill at any point harms nothing."""

from __future__ import annotations

import fcntl
import itertools
import json
import multiprocessing
import pickle
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
from killing import Prepared, run_job

from bundle.store import Store
from bundle.verify import verify
from training.__main__ import main
from training.data.arrays import encode_png, read_digits
from training.export import export
from training.recipe import parse_recipe
from training.retrain import Job, recipe_for
from training.runs import load_run

QUICK = ["--set", "export.latency_batch_sizes=[1]", "--set", 'export.variants=["int8"]', "--set", "train.epochs=1"]
LENIENT = ["--set", "gate.max_latency_ratio=20.0", "--set", "gate.max_class_recall_drop=0.9"]
BETTER = [*QUICK, *LENIENT, "--set", "train.learning_rate=0.02"]
WORSE = [*QUICK, *LENIENT, "--set", "train.learning_rate=0.0000001", "--afresh"]


@pytest.fixture(scope="module")
def first(tiny_run, tmp_path_factory):
    """A store with version 1, trained for two epochs."""
    run = load_run(tiny_run)
    settings = run.recipe.export.model_copy(update={"latency_batch_sizes": (1,), "variants": ()})
    run.recipe = run.recipe.model_copy(update={"export": settings})
    store = Store(tmp_path_factory.mktemp("first"))
    export(run).draft.publish(store)
    store.promote("digits", 1)
    return store.root


@pytest.fixture
def store(first, tmp_path):
    shutil.copytree(first, tmp_path / "store")
    return Store(tmp_path / "store")


def job(store, *options):
    return [
        "retrain",
        "--model",
        "digits",
        "--store",
        str(store.root),
        "--runs",
        str(store.root.parent / "runs"),
        *options,
    ]


def test_a_candidate_that_is_not_worse_takes_over(store):
    assert main(job(store, *BETTER)) == 0
    bundle = store.open("digits")
    assert (bundle.manifest.version, bundle.manifest.lineage.parent) == (2, 1)
    assert verify(store, bundle)
    verdict = json.loads(bundle.read("verdict.json"))
    assert verdict["outcome"] == bundle.manifest.verdict.outcome == "champion"
    assert verdict["candidate_scores"]["top1"] >= verdict["champion_scores"]["top1"]
    assert verdict["champion_training_list_checked"]
    assert store.channels("digits").history == (1,)


def test_a_retrain_asks_for_nothing_that_only_the_champions_own_run_needed(first):
    """The files that it began from, and the compiler that made it faster, unless one is asked for."""
    champion = Store(first).open("digits")
    recorded = parse_recipe(champion.manifest.lineage.recipe).model_dump(mode="json")
    recorded["model"]["weights"], recorded["train"]["teachers"] = "gone/best.pt", ["gone"]
    recorded["train"]["compile"] = True
    lineage = champion.manifest.lineage.model_copy(update={"recipe": recorded})
    champion = replace(champion, manifest=champion.manifest.model_copy(update={"lineage": lineage}))
    recipe = recipe_for(champion, Job("digits", Store(first)))
    assert (recipe.model.weights, recipe.train.teachers, recipe.train.compile) == (None, (), False)
    assert recipe_for(champion, Job("digits", Store(first), overrides=("train.compile=true",))).train.compile
    afresh = recipe_for(champion, Job("digits", Store(first), afresh=True))
    assert (afresh.model.weights, afresh.train.teachers) == ("gone/best.pt", ())


def test_a_worse_candidate_is_published_but_not_promoted(store, capsys):
    assert main(job(store, *WORSE)) == 3
    assert "Kept as a candidate: top-1 differs by" in capsys.readouterr().out
    assert store.versions("digits") == [1, 2]
    assert store.channels("digits").champion == 1
    assert store.open("digits", 2).manifest.verdict.outcome == "candidate"


def test_two_jobs_cannot_collide(store, capsys):
    with open(store.root / "digits" / ".retrain.lock", "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert main(job(store, *BETTER)) == 5
    assert "another job is retraining digits" in capsys.readouterr().err
    assert store.versions("digits") == [1]


def test_feedback_joins_the_training_images(store, tmp_path):
    labels, known = read_digits()
    folder = tmp_path / "feedback"
    for index in range(20):
        pixels = np.flipud(np.asarray(np.random.default_rng(index).integers(0, 256, (8, 8)), np.uint8))
        place = folder / labels[index % 10]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.png").write_bytes(encode_png(pixels))
    assert main(job(store, *QUICK, *LENIENT, "--set", "train.learning_rate=0.02", "--feedback", str(folder))) in (0, 3)
    before, after = (len(store.open("digits", v).read("training_digests.bin")) // 8 for v in (1, 2))
    assert after > before
    assert store.open("digits", 2).manifest.lineage.recipe["data"]["feedback"] is None, "no path of this machine"
    assert len(known) == 1797


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--model", "cats"], 2, "cats has no champion"),
        (["--feedback", "nowhere"], 2, "nowhere is not a folder"),
        (["--set", "train.epohcs=1"], 2, "train.epohcs"),
        (["--set", "data.test_fraction=0.5"], 4, "held-out images are among those the champion learned from"),
    ],
    ids=["model", "feedback", "recipe", "leak"],
)
def test_exit_codes_tell_a_scheduler_what_happened(store, capsys, options, code, said):
    assert main(job(store, *QUICK, *options)) == code
    assert said in capsys.readouterr().err
    assert store.versions("digits") == [1]


def test_a_champion_that_changed_meanwhile_is_not_replaced(store, monkeypatch, capsys):
    import training.retrain as retrain

    judged = retrain.judge

    def judge_slowly(*args):
        other = store.root / "digits" / "1"
        shutil.copytree(other, store.root / "digits" / "7")
        manifest = store.root / "digits" / "7" / "bundle.json"
        manifest.write_text(manifest.read_text().replace('"version": 1,', '"version": 7,', 1))
        store.promote("digits", 7)
        return judged(*args)

    monkeypatch.setattr(retrain, "judge", judge_slowly)
    assert main(job(store, *BETTER)) == 5
    assert "the champion of digits is now 7: it stays a candidate" in capsys.readouterr().err
    assert store.channels("digits").champion == 7


@pytest.fixture(scope="module")
def prepared(first, tiny_run, tmp_path_factory):
    """What training and export would give the killed jobs, made once."""
    run = load_run(tiny_run)
    settings = run.recipe.export.model_copy(update={"latency_batch_sizes": (1,), "variants": ()})
    run.recipe = run.recipe.model_copy(update={"export": settings})
    path = tmp_path_factory.mktemp("prepared") / "exported.pickle"
    path.write_bytes(pickle.dumps(export(run)))
    return Prepared(tiny_run, path)


@pytest.mark.timeout(1200)  # some two hundred processes
def test_a_kill_at_any_point_leaves_whole_versions_and_the_next_run_completes(first, prepared, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.retrain"])  # PyTorch is imported once, then forked

    def run(store, moment):
        process = context.Process(target=run_job, args=(store.root, prepared, moment))
        process.start()
        process.join(120)
        return process.exitcode

    killed = 0
    for moment in itertools.count():
        shutil.copytree(first, tmp_path / str(moment))
        store = Store(tmp_path / str(moment))
        code = run(store, moment)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        assert store.channels("digits").champion in store.versions("digits")
        for version in store.versions("digits"):
            store.check_files(store.open("digits", version))
        assert run(store, None) == 0, f"the run after a kill at moment {moment}"
        assert store.channels("digits").champion == max(store.versions("digits")) <= 3
        verify(store, store.open("digits"))
        assert {path.name for path in (store.root / "digits").iterdir() if not path.name.isdecimal()} == {
            "channels.json",
            ".lock",
            ".retrain.lock",
        }, "nothing half-made is left"
    assert killed > 40
