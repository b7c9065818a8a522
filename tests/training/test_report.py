import json
import re
import shutil

from training.__main__ import main
from training.recipe import load_recipe
from training.report import write_report


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
