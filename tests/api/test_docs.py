"""docs/api.md is true: its examples run, its tables are complete, its limits are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.decode import Limits
from bundle.errors import ImageError
from service.errors import IMAGE_STATUSES, ServiceError, subclasses
from service.settings import PREFIX, Settings
from tests.bundle.test_preprocess_modes import CASES
from tests.factory import color_image, publish_colors
from tests.running import ROOT, Running, serving

TEXT = (ROOT / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
HEADINGS = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)


def table(heading: str) -> list[list[str]]:
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service of the examples; its model bears the name that they use."""
    root = tmp_path_factory.mktemp("docs")
    publish_colors(root / "store", "cifar10")
    with serving(root / "store", "cifar10", feedback=root / "feedback") as running:
        yield running


@pytest.mark.parametrize(
    ("language", "code"), EXAMPLES, ids=[f"{i}-{language}" for i, (language, _) in enumerate(EXAMPLES)]
)
def test_every_example_runs(server: Running, tmp_path: Path, language: str, code: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(color_image("red", (64, 48), format="JPEG"))
    code = code.replace("localhost:8000", server.address)
    start = [sys.executable, "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        [*start, code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout or (tmp_path / "overlay.png").stat().st_size > 0


def test_every_protocol_has_an_example_in_curl_and_in_python() -> None:
    for heading in HEADINGS[: HEADINGS.index("Every endpoint")]:
        section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        assert "```bash" in section, heading
        assert "```python" in section, heading


def test_the_table_of_modes_is_what_the_tests_compute() -> None:
    assert [row[0] for row in table("How images are read")] == list(CASES)


def statuses() -> dict[str, int]:
    import service.app  # noqa: F401 - so that every class of refusal is defined

    images = {kind.code for kind in [ImageError, *ImageError.__subclasses__()]}
    assert images == set(IMAGE_STATUSES)
    ours = {code: kind.status for code, kind in subclasses(ServiceError).items()}
    by_http = {"http.not_found": 404, "http.method_not_allowed": 405}
    return {**IMAGE_STATUSES, **ours, **by_http}


def test_the_error_table_lists_every_code_with_its_status_cause_and_cure() -> None:
    listed = {row[0].strip("`"): int(row[1]) for row in table("Errors")}
    assert listed == statuses()
    assert all(len(row) == 4 and all(row) for row in table("Errors"))


def test_every_setting_and_limit_that_is_named_exists() -> None:
    for name in re.findall(rf"{PREFIX}([A-Z_]+)", TEXT):
        assert name.lower() in Settings.model_fields or name == "KEY", name
    assert f"{Limits().max_scans} scans" in TEXT
    assert Settings.model_fields["max_decode_s"].default == Limits().max_decode_seconds
