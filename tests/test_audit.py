"""`make audit` finds what is known of a pin, passes a clean file, and never takes silence for an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.loopback import answering
from tests.running import ROOT, free_port

FAULT = {
    "id": "PYSEC-0000-1",
    "summary": "it lets anybody in",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.2"}]}],
        }
    ],
}


class Advisories(ThreadingHTTPServer):
    """A stand-in for an OSV server that knows one fault, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: set[tuple[str, str]] = set()


class Handler(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pin = (query["package"]["name"], query["version"])
        self.server.asked.add(pin)
        body = json.dumps({"vulns": [FAULT]} if pin == ("leaky", "1.1") else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def advisories() -> Iterator[Advisories]:
    with answering(Advisories()) as server:
        yield server


def audit(requirements: Path, port: int, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/audit.py", str(requirements), "--osv", f"http://127.0.0.1:{port}/v1/query"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cache)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_vulnerable_pin_is_named_with_its_cure(advisories: Advisories, tmp_path: Path) -> None:
    (tmp_path / "pins").write_text("sound==2.0\nleaky==1.1\n")
    done = audit(tmp_path / "pins", advisories.server_port, tmp_path)
    assert done.returncode == 1
    assert "leaky 1.1: PYSEC-0000-1, fixed in 1.2: it lets anybody in" in done.stdout
    assert "2 pins, 1 known" in done.stdout


def test_every_pin_of_this_project_is_asked_about(advisories: Advisories, tmp_path: Path) -> None:
    advisories.asked.clear()
    done = audit(ROOT / "constraints.txt", advisories.server_port, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    everywhere = [line for line in lines if "==" in line and ";" not in line]
    asked = {f"{name}=={version}" for name, version in advisories.asked}
    assert {line.lower().replace("_", "-").replace(".", "-") for line in everywhere} <= {
        pin.replace(".", "-") for pin in asked
    }
    assert len(everywhere) > 100
    assert "0 known vulnerabilities" in done.stdout


def test_silence_is_no_result_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pins").write_text("sound==2.0\n")
    done = audit(tmp_path / "pins", free_port(), tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("No result: http://127.0.0.1:")
    assert "OSV=<address of an OSV server>" in done.stderr
