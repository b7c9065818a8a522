"""Promotion, rollback, comparison and clearing away, by command and under concurrent readers."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import threading

import pytest
from factory import color_draft, color_image, publish_colors

from bundle.__main__ import main
from bundle.errors import BundleConflict, BundleMissing
from bundle.retention import expendable
from bundle.store import Canary, Store
from bundle.verify import verify


@pytest.fixture
def store(tmp_path):
    for _ in range(3):
        publish_colors(tmp_path, champion=False)
    store = Store(tmp_path)
    store.promote("colors", 1)
    return store


def test_promote_then_rollback_walks_back_through_the_champions(store, capsys):
    root = str(store.root)
    for version in (2, 3):
        assert main(["--store", root, "promote", f"colors/{version}"]) == 0
    assert store.channels("colors").history == (1, 2)
    for version in (2, 1):
        assert main(["--store", root, "rollback", "colors"]) == 0
        assert store.channels("colors").champion == version
    assert "colors: champion 2 -> 1" in capsys.readouterr().out
    assert main(["--store", root, "rollback", "colors"]) == 1
    assert "no earlier champion" in capsys.readouterr().err


def test_canary_and_shadow_are_named_and_withdrawn_by_command(store, capsys):
    root = str(store.root)
    assert main(["--store", root, "promote", "colors/2", "--channel", "canary", "--weight", "0.05"]) == 0
    assert main(["--store", root, "promote", "colors/3", "--channel", "shadow"]) == 0
    channels = store.channels("colors")
    assert (channels.champion, channels.canary, channels.shadow) == (1, Canary(version=2, weight=0.05), 3)
    assert main(["--store", root, "withdraw", "colors", "canary"]) == 0
    assert main(["--store", root, "withdraw", "colors", "shadow"]) == 0
    assert (store.channels("colors").canary, store.channels("colors").shadow) == (None, None)
    assert "colors: canary 2 for 0.05 of the requests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["colors/2", "--channel", "canary"], "--weight go together"),
        (["colors/2", "--weight", "0.5"], "--weight go together"),
        (["colors/2", "--channel", "canary", "--weight", "1.5"], "above 0 and below 1"),
        (["colors/1", "--channel", "shadow"], "is the champion"),
    ],
    ids=["no-weight", "no-channel", "too-much", "champion"],
)
def test_a_channel_that_makes_no_sense_is_refused(store, capsys, arguments, reason):
    before = store.channels("colors")
    assert main(["--store", str(store.root), "promote", *arguments]) == 1
    assert reason in capsys.readouterr().err
    assert store.channels("colors") == before


def test_a_damaged_version_is_not_promoted(store, capsys):
    (store.root / "colors" / "2" / "model.onnx").write_bytes(b"")
    assert main(["--store", str(store.root), "promote", "colors/2"]) == 1
    assert "model.onnx is 0 bytes" in capsys.readouterr().err
    assert store.channels("colors").champion == 1


def test_on_a_full_disk_nothing_changes_and_one_sentence_says_so(store):
    files = sorted((store.root / "colors").iterdir())
    full = ["bash", "-c", 'ulimit -f 0 && exec "$@"', "-"]
    command = [sys.executable, "-m", "bundle", "--store", str(store.root), "promote", "colors/2"]
    done = subprocess.run([*full, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"system\.refused: File too large: .*\n", done.stderr)
    assert store.channels("colors").champion == 1
    assert sorted((store.root / "colors").iterdir()) == files


def test_readers_see_whole_versions_and_a_champion_while_it_changes(store):
    """Rollback under load: every reading, at any moment, opens and verifies."""
    stop, faults, readings = threading.Event(), [], []

    def read():
        while not stop.is_set():
            try:
                readings.append(store.open("colors").manifest.version)
                verify(store, store.open("colors"))
            except Exception as error:
                faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(40):
        store.promote("colors", 2)
        store.rollback("colors")
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults
    assert set(readings) <= {1, 2}
    assert store.channels("colors").champion == 1


def test_gc_keeps_what_is_used_what_was_champion_and_the_newest(store):
    for _ in range(4):
        publish_colors(store.root, champion=False)
    store.promote("colors", 2)
    store.set_channels("colors", lambda c: c.model_copy(update={"canary": Canary(version=4, weight=0.1), "shadow": 5}))
    assert expendable(store, "colors", keep=1) == [3, 6]
    assert main(["--store", str(store.root), "gc", "--keep", "1", "--dry-run"]) == 0
    assert store.versions("colors") == [1, 2, 3, 4, 5, 6, 7]
    assert main(["--store", str(store.root), "gc", "--keep", "1"]) == 0
    assert store.versions("colors") == [1, 2, 4, 5, 7]


def test_a_version_in_use_cannot_be_removed(store):
    with pytest.raises(BundleConflict, match="colors/1 is in use"):
        store.remove("colors", 1)
    with pytest.raises(BundleMissing):
        store.remove("colors", 9)


def hold_staging(root, entered, leave):
    with Store(root).staging("colors"):
        entered.set()
        leave.wait(60)


def test_only_what_no_living_publisher_holds_is_cleared(store):
    """A staging folder belongs to its process for as long as that lives, and to nobody after a kill."""
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    process = context.Process(target=hold_staging, args=(store.root, entered, leave))
    process.start()
    assert entered.wait(60)
    assert store.clear_stale("colors") == []
    process.kill()
    process.join()
    assert len(store.clear_stale("colors")) == 1
    assert not list((store.root / "colors").glob(".staging-*"))


def test_diff_shows_labels_preprocessing_and_disagreements_with_thumbnails(store, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for color in ("red", "green", "blue"):
        (images / f"{color}.png").write_bytes(color_image(color, (12, 12)))
    (images / "notes.txt").write_text("not an image")
    draft = color_draft(gain=-4.0)
    draft.preprocessing = draft.preprocessing.model_copy(update={"interpolation": "nearest"})
    draft.publish(store)
    page = tmp_path / "diff.html"
    arguments = ["diff", "colors/1", "colors/4", "--images", str(images), "--html", str(page)]
    assert main(["--store", str(store.root), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "preprocessing interpolation: bilinear -> nearest" in shown
    assert "red.png: red" in shown
    assert "3 disagreements" in shown
    assert page.read_text().count("data:image/png;base64,") == 3


def test_equal_bundles_have_no_difference(store, capsys):
    assert main(["--store", str(store.root), "diff", "colors/1", "colors/2"]) == 0
    assert capsys.readouterr().out == "0 disagreements\n"
