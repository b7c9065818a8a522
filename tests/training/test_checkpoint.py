import os

import pytest
import torch

from training.checkpoint import load, save, write_json
from training.errors import RunError


class Code:
    """Runs when it is unpickled, unless the reader takes values only."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


def test_a_checkpoint_can_hold_data_but_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(1), "other": Code()}, "bad.pt")
    with pytest.raises(RunError, match=r"bad\.pt is not a readable checkpoint"):
        load(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("write", [save, write_json], ids=lambda write: write.__name__)
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    write(path, {"number": 1})
    before = path.read_bytes()

    def full(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write(path, {"number": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a readable checkpoint"), (b"PK\x03\x04 cut off", "not a readable checkpoint")],
    ids=["empty", "truncated"],
)
def test_a_damaged_checkpoint_is_named(tmp_path, content, words):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(RunError, match=rf"last\.pt is {words}"):
        load(tmp_path / "last.pt")


def test_a_checkpoint_is_a_dictionary(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RunError, match="holds a list"):
        load(tmp_path / "list.pt")
