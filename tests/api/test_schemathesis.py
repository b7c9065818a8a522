"""Generated requests against every described operation of the real service: no fault, and answers as described.

All checks and phases of schemathesis are on; what is narrowed says why in schemathesis.toml.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fuzzing import LONG, examples
from tests.running import Running

EXAMPLES = str(examples(3))
SEED = [] if LONG else ["--seed", "1"]


@pytest.fixture(scope="module")
def archive(opened: Running, admin: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run schemathesis once and return what it sent and received."""
    folder = tmp_path_factory.mktemp("schemathesis")
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run", f"{opened.url}/openapi.json",
        "--phases", "examples,coverage,fuzzing,stateful", "--checks", "all", "--max-examples", EXAMPLES,
        "--request-timeout", "10", "--continue-on-failure", "--warnings", "off",
        "--suppress-health-check", "all", "--generation-database", "none", "--report", "har", "--report-har-path",
        str(folder / "all.har"), *SEED,
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    environment = {**os.environ, "FUZZER_KEY": admin["X-API-Key"]}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-60_000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
    return dict(json.loads((folder / "all.har").read_text()))


def test_no_request_makes_a_fault_or_an_answer_that_is_not_described(opened: Running, archive: dict[str, Any]) -> None:
    """No 5xx, no hang (10 s), no undocumented status or shape, nothing wrong accepted, and the next request works."""
    assert len(archive["log"]["entries"]) > 1000
    assert requests.get(f"{opened.url}/readyz", timeout=10).status_code == 200
    assert "Traceback" not in opened.log.read_text()


def test_every_example_body_succeeds(opened: Running, admin: dict[str, str]) -> None:
    """What the description shows can be copied; only a label must be one of the model's."""
    described = requests.get(f"{opened.url}/openapi.json", timeout=10).json()["paths"]
    tried = 0
    for path, methods in described.items():
        for operation in methods.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in content:
                body = {**content["example"], **({"label": "red"} if path == "/feedback" else {})}
                url = opened.url + path.replace("{model}", "colors").replace("{version}", "2")
                answer = requests.post(url, json=body, headers=admin, timeout=10)
                assert answer.status_code in (200, 201), (path, answer.text)
                tried += 1
    assert tried >= 7
