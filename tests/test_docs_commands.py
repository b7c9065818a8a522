"""The documents' commands are run: each fenced block marked `bash tested`, against the service of `make serve`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.running import free_port

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```bash tested\n(.*?)^```$(?:\s*^```json\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
LEFT_OUT = (".git", ".venv", "build", "data", "runs", "__pycache__", ".*_cache")
START_LIMIT_S = 120


@dataclass(frozen=True)
class Block:
    """Commands as they stand in a document, and the reply that it shows below them, if any."""

    page: str
    line: int
    script: str
    reply: str | None


def blocks() -> list[Block]:
    """Find every tested block in the documents."""
    return [
        Block(page.name, page.read_text()[: match.start()].count("\n") + 1, match[1], match[2])
        for page in PAGES
        for match in BLOCK.finditer(page.read_text())
    ]


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout in which `make serve` runs."""

    root: Path
    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Copy the checkout, start the service there as the README says, and stop it afterwards."""
    root = tmp_path_factory.mktemp("docs") / "clearsight"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (root / ".venv").symlink_to(ROOT / ".venv")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLEARSIGHT_")}
    environment["PATH"] = f"{ROOT / '.venv' / 'bin'}:{environment['PATH']}"
    port = free_port()
    with _make_serve(root, environment | {"CLEARSIGHT_PORT": str(port)}, port):
        yield Checkout(root, f"localhost:{port}", environment)


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.page}:{block.line}")
def test_the_commands_work_as_printed(block: Block, checkout: Checkout) -> None:
    """Each block exits 0, and where a reply is printed below it, the last line of its output has that shape."""
    script = block.script.replace("localhost:8000", checkout.address)
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=checkout.root,
        env=checkout.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{block.page}:{block.line}\n{script}\n{done.stdout}\n{done.stderr}"
    if block.reply is not None:
        assert shape(json.loads(done.stdout)) == shape(json.loads(block.reply)), done.stdout


def test_the_readme_shows_a_request_and_its_reply() -> None:
    """A newcomer sees one tested command with its answer."""
    assert any(block.page == "README.md" and block.reply for block in blocks())


def shape(value: Any) -> Any:
    """Reduce a reply to what stays the same: its keys, its words and the kinds of its numbers."""
    if isinstance(value, dict):
        changing = ("request_id", "digest", "version")
        return {key: type(item).__name__ if key in changing else shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__ if isinstance(value, float) else value


@contextlib.contextmanager
def _make_serve(root: Path, environment: dict[str, str], port: int) -> Iterator[None]:
    with open(root / "serve.log", "wb") as log:
        process = subprocess.Popen(
            ["make", "serve"], cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _await_ready(process, port, root / "serve.log")
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_LIMIT_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/startupz", timeout=5).close()
            return
        time.sleep(0.1)  # another process announces its readiness nowhere else
    raise AssertionError(f"make serve did not become ready:\n{log.read_text()[-4000:]}")
