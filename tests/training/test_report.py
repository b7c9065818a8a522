import json
import re

from training.__main__ import main
from training.recipe import load_recipe


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


def test_the_report_says_how_to_train_again_and_that_works(tiny_run):
    assert f"python -m training train {tiny_run.name}/run.json" in (tiny_run / "report.html").read_text()
    assert load_recipe(tiny_run / "run.json").train.epochs == 2


def test_the_report_can_be_written_again(tiny_run, capsys):
    before = (tiny_run / "report.html").read_text()
    (tiny_run / "report.html").unlink()
    assert main(["report", str(tiny_run)]) == 0
    assert "Confusion matrix" in (tiny_run / "report.html").read_text()
    assert len((tiny_run / "report.html").read_text()) > 0.9 * len(before)
