"""Generated requests against every described operation of the real service: no fault, and answers as described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import requests

from tests.fuzzing import LONG, examples
from tests.running import Running

EXAMPLES = str(examples(3))
SEED = [] if LONG else ["--seed", "1"]
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)


def resident_bytes(running: Running) -> int:
    parent = psutil.Process(running.process.pid)
    return sum(process.memory_info().rss for process in [parent, *parent.children(recursive=True)])


def test_no_request_makes_a_fault_or_an_answer_that_is_not_described(server: Running, tmp_path: Path) -> None:
    """No 5xx, no hang (10 s), no undocumented status or shape, no growth, and the next request works."""
    configuration = Path(__file__).with_name("schemathesis.toml")
    before = resident_bytes(server)
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(configuration), "run",
            f"{server.url}/openapi.json", "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES,
            "--checks", CHECKS, "--request-timeout", "10", "--continue-on-failure", "--warnings", "off",
            "--suppress-health-check", "all", "--generation-database", "none", *SEED,
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "No issues found" in run.stdout
    assert resident_bytes(server) < before + 150 * 2**20
    assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 200
    assert "Traceback" not in server.log.read_text()
