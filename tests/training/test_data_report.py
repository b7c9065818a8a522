import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.__main__ import main
from training.data import open_dataset
from training.data_report import examine
from training.recipe import Data


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((80, 90), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Two classes with a duplicate across the splits, a near duplicate, a GIF, a broken file and a dark image."""
    root = tmp_path / "data"
    for split, start, count in (("train", 0, 24), ("test", 100, 4)):
        for label, offset in (("ants", 0), ("bees", 1000)):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                picture(start + offset + number).save(root / split / label / f"{number}.jpg", quality=95)
    picture(3).save(root / "test" / "ants" / "leak.jpg", quality=95)
    picture(5).filter(ImageFilter.GaussianBlur(1)).save(root / "train" / "ants" / "near.jpg", quality=70)
    picture(7).save(root / "train" / "bees" / "conflict.jpg", quality=95)
    picture(77).save(root / "train" / "ants" / "imageNotFound.gif")
    (root / "train" / "bees" / "broken.jpg").write_bytes(b"not an image")
    Image.new("RGB", (80, 90), (2, 2, 2)).save(root / "train" / "bees" / "dark.jpg")
    return root


def test_the_report_finds_what_was_hidden(folder):
    report = examine(open_dataset("made", Data(source="folder", path=str(folder))))
    assert report.images == 62
    assert [path.rsplit("/", 1)[-1] for path in report.unreadable] == ["broken.jpg"]
    assert any("imageNotFound.gif" in line for line in report.odd)
    assert [any("leak.jpg" in path for path in group) for group in report.leaks] == [True]
    assert any("near.jpg" in path for group in report.near_duplicates for path in group)
    assert any("conflict.jpg" in path for group in report.conflicts for path in group)
    assert any("dark.jpg" in path for path in report.brightness_outliers)
    assert sum(report.classes["ants"].values()) == 31


def test_a_clean_folder_has_no_findings(tmp_path):
    for label, offset in (("a", 0), ("b", 500)):
        (tmp_path / label).mkdir()
        for number in range(20):
            picture(offset + number).save(tmp_path / label / f"{number}.png")
    report = examine(open_dataset("made", Data(source="folder", path=str(tmp_path))))
    nothing = (report.unreadable, report.odd, report.exact_duplicates, report.near_duplicates, report.leaks)
    assert not any(nothing) and not report.conflicts and report.imbalance == 1.0


def test_the_command_prints_and_writes_the_findings(folder, tmp_path, capsys):
    arguments = [
        "data-report",
        str(folder),
        "--html",
        str(tmp_path / "page.html"),
        "--json",
        str(tmp_path / "found.json"),
    ]
    assert main(arguments) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "page.html").read_text()
    for text in (printed, page):
        assert "imageNotFound.gif" in text and "lie in several splits" in text and "broken.jpg" in text
    assert page.count("data:image/png") >= 40
    assert 'src="http' not in page
    assert json.loads((tmp_path / "found.json").read_text())["images"] == 62
