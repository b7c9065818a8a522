import json
import re
import shutil

import numpy as np

from training.__main__ import main
from training.data.dataset import Split
from training.recipe import load_recipe
from training.report import write_evaluation, write_report
from training.runs import load_run


def test_the_report_needs_nothing_but_itself(tiny_run):
    page = (tiny_run / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,12})', page)
    assert len(sources) >= 4 and all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"<script|<link|@import|url\(", page)


def test_the_report_holds_figures_reading_data_and_recipe(tiny_run):
    page = (tiny_run / "report.html").read_text()
    tested, facts = (json.loads((tiny_run / name).read_text()) for name in ("test.json", "run.json"))
    assert f"{100 * tested['top1']:.2f} %" in page
    assert facts["data"]["fingerprint"] in page
    for words in ("Confusion matrix", "Reliability", "Worst errors", "too short to read", "train.learning_rate"):
        assert words in page


def test_the_top_five_of_fewer_than_six_classes_are_no_figure(tmp_path, tiny_run):
    run = load_run(tiny_run)
    two = Split([item for item in run.data.test.items if item.target < 2])
    certain = np.eye(2, dtype=np.float32)[two.targets()]
    write_evaluation(tmp_path / "two.html", "zero or one", two, certain, run.labels[:2], run.preprocessing)
    assert "top-1" in (tmp_path / "two.html").read_text()
    assert "top-5" not in (tmp_path / "two.html").read_text()
    assert "top-5" in (tiny_run / "report.html").read_text()


def test_the_report_follows_the_readers_dark_mode_and_fits_a_phone(tiny_run):
    page = (tiny_run / "report.html").read_text()
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    pictures = re.findall(r'<img src="data:image/svg[^"]*" alt="([^"]*)"', page)
    assert [alt.split()[0] for alt in pictures] == ["Loss", "Accuracy", "Confusion", "Reliability"]


def test_the_report_names_no_folder_of_the_machine_that_trained(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts["recipe"]["data"]["path"] = str(tmp_path / "images")
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    assert str(tmp_path) not in write_report(tmp_path / "run", None, None).read_text()


def test_the_report_says_how_to_train_again_and_that_works(tiny_run):
    assert f"python -m training train {tiny_run.name}/run.json" in (tiny_run / "report.html").read_text()
    assert load_recipe(tiny_run / "run.json").train.epochs == 2


def test_the_report_can_be_written_again(tiny_run, capsys):
    before = (tiny_run / "report.html").read_text()
    (tiny_run / "report.html").unlink()
    assert main(["report", str(tiny_run)]) == 0
    assert "Confusion matrix" in (tiny_run / "report.html").read_text()
    assert len((tiny_run / "report.html").read_text()) > 0.9 * len(before)
