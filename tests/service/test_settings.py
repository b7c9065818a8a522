from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import EXIT_SETTINGS, Settings, describe_settings, read_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CLEARSIGHT_PORT", "eighty"),
        ("CLEARSIGHT_PORT", "70000"),
        ("CLEARSIGHT_DEVICE", "gpu"),
        ("CLEARSIGHT_WORKERS", "-1"),
        ("CLEARSIGHT_MODELS", "cifar10"),
        ("CLEARSIGHT_RESERVED_THREADS", "48"),
        ("CLEARSIGHT_MAX_BATCH", "4096"),
    ],
)
def test_a_bad_value_stops_the_start_with_its_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stopped:
        read_settings()
    assert stopped.value.code == EXIT_SETTINGS
    assert variable.removeprefix("CLEARSIGHT_").lower() in capsys.readouterr().err.lower()


def test_the_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_help_prints_every_setting() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for variable, _, _ in describe_settings():
        assert variable in done.stdout


def test_the_document_lists_every_setting_with_its_default_and_nothing_else() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `(CLEARSIGHT_\w+)` \| (.*?) \| (.*) \|$", text, re.MULTILINE)
    documented = {variable: (default.strip("`"), description) for variable, default, description in rows}
    assert documented == {variable: (default, text) for variable, default, text in describe_settings()}
