"""`python -m bundle` answers for every bundle, and says in one sentence what is wrong."""

import pytest
from factory import publish_colors

from bundle.__main__ import main


@pytest.fixture
def store(tmp_path):
    publish_colors(tmp_path)
    publish_colors(tmp_path, champion=False, gain=2.0)
    return tmp_path


def test_list_shows_versions_and_the_champion(store, capsys):
    assert main(["--store", str(store), "list"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("colors/1  champion")
    assert second.startswith("colors/2  -")


def test_inspect_shows_what_the_export_recorded(store, capsys):
    assert main(["--store", str(store), "inspect", "colors"]) == 0
    shown = capsys.readouterr().out
    for part in ("image uint8 [batch, 8, 8, 3]", "probabilities float32 [batch, 3]", "red, green, blue", "opset 18"):
        assert part in shown


def test_verify_passes_every_version(store, capsys):
    assert main(["--store", str(store), "verify"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["inspect", "shapes"], "shapes has no champion"),
        (["inspect", "colors/9"], "colors has no version 9"),
        (["verify", "colors/one"], "VERSION is a whole number"),
    ],
    ids=["model", "version", "not-a-number"],
)
def test_a_wrong_name_is_one_clear_sentence(store, capsys, arguments, sentence):
    assert main(["--store", str(store), *arguments]) == 1
    assert sentence in capsys.readouterr().err
