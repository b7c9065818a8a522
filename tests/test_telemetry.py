"""Nothing is told to anybody: onnxruntime's telemetry is off in every process of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def written(home: Path, program: str) -> list[str]:
    """Run a program with a home of its own and return the files that it left there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_", "CI", "GITHUB"))}
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=kept | {"HOME": str(home)}, check=True, capture_output=True
    )
    return [path.name for path in home.rglob("*") if path.is_file()]


def modules() -> list[str]:
    """Find every module that imports onnxruntime itself."""
    paths = (path for package in ("bundle", "service", "training", "bench") for path in (ROOT / package).rglob("*.py"))
    needles = ("import onnxruntime", "from onnxruntime")
    found = [path for path in paths if any(needle in path.read_text() for needle in needles)]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found)
    return sorted(name for name in names if not name.endswith("__main__"))


@pytest.mark.parametrize("module", modules())
def test_no_module_lets_onnxruntime_report(module: str, tmp_path: Path) -> None:
    """Where it reports, its import writes an identifier of the device into the home folder."""
    assert written(tmp_path, f"import {module}, onnxruntime") == []
