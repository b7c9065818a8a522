"""The documents' commands are run: each fenced block marked `bash tested`, against the service of `make serve`.

docs/api.md's examples run in tests/api/test_docs.py. What takes a GPU, a container engine, hours or somebody's data is
not run here: there each line must be one that the command's own parser, make or the compose files accept.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
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
import yaml

from bundle.store import Store
from service.settings import Settings
from tests.running import free_port
from tests.test_docs import PARSERS, commands

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


def unrun() -> list[tuple[str, str]]:
    """Find the commands of the blocks without a mark, and those with arguments in sentences, each with its page.

    What is no command (a tree of files, a reply) says so: ```text, ```json.
    """
    found = []
    for page in PAGES:
        text = page.read_text()
        fences = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        blocks = "\n".join(code for kind, code in fences if not kind or kind == "sh")
        sentences = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).replace("\n", " ")
        lines = [
            *blocks.replace("\\\n", " ").splitlines(),
            *re.findall(r"`(python -m (?:bundle|service|training) [^`]+ [^`]+)`", sentences),
        ]
        commands = (line.partition("  #")[0].strip() for line in lines)
        found += [(page.name, command) for command in commands if command]
    return found


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


@pytest.mark.parametrize(("page", "command"), unrun(), ids=lambda text: text[:60])
def test_a_command_that_is_not_run_is_one_that_exists(page: str, command: str) -> None:
    """A command, option, target, service or file that is gone, or was never there, fails by its name."""
    words = shlex.split(command)
    if words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}: {command}: {done.stderr}"
    elif words[0] in ("docker", "kubectl", "promtool"):
        named = {word for word in words if re.search(r"\.ya?ml$|^clearsight|^service|^retrain", word)}
        assert named <= _deployed(), f"{page}: {command}: there is no {', '.join(named - _deployed())}"
    else:
        assert words[0] in ("python", "torchrun"), f"{page}: nothing checks {command}"
        last = len(words) - 1 - words[::-1].index("-m")  # a launcher of processes may stand before it
        package, *arguments = words[last + 1 :]
        if package.split(".")[0] == "bench":
            assert f"python -m {package}" in commands(), f"{page}: {command}"
        else:
            assert PARSERS[package]().parse_args([word for word in arguments if word != "--help"])


def _deployed() -> set[str]:
    """Return what a command of a container engine can name: services, targets, images and files."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    targets = re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    files = [*ROOT.glob("docker-compose*.yml"), *(ROOT / "deploy").rglob("*.yml"), *(ROOT / "deploy").rglob("*.yaml")]
    images = {service["image"] for service in compose.values()}
    return {*compose, *targets, *images, *(str(path.relative_to(ROOT)) for path in files)}


def test_the_readme_shows_a_request_and_its_reply() -> None:
    """A newcomer sees one tested command with its answer: the default model's, to a picture of this repository."""
    [block] = [block for block in blocks() if block.page == "README.md" and block.reply]
    assert "?" not in block.script
    assert json.loads(block.reply)["model"]["name"] == Settings.model_fields["default_model"].default


def test_make_serve_prints_a_request_that_works(checkout: Checkout) -> None:
    """Who starts the service sees where it is, and a command to copy."""
    [command] = re.findall(r"^ +(curl .*)$", (checkout.root / "serve.log").read_text(), re.MULTILINE)
    assert checkout.address in command
    done = subprocess.run(shlex.split(command), cwd=checkout.root, capture_output=True, text=True)
    assert json.loads(done.stdout)["predictions"], done.stdout


ROW = re.compile(r"^\| `(\w+)` \|[^|]*\|\s*([\d,]+) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\)", re.MULTILINE)


def test_the_accuracies_in_the_readme_are_those_of_the_bundles() -> None:
    """Each row says what `bundle.json` holds: images, top-1 and its interval."""
    store = Store(ROOT / "exported")
    said = {name: (n.replace(",", ""), *figures) for name, n, *figures in ROW.findall((ROOT / "README.md").read_text())}
    assert set(said) == set(store.names())
    for name, figures in said.items():
        metrics = store.open(name, store.channels(name).champion).manifest.metrics
        assert metrics is not None
        digits = len(figures[1].partition(".")[2])
        held = (metrics.top1, *metrics.top1_interval)
        assert figures == (str(metrics.n), *(f"{value:.{digits}f}" for value in held)), f"README.md: {name}"


def shape(value: Any) -> Any:
    """Reduce a reply to what stays the same when a model is trained again: its keys, its words, its kinds of numbers.

    Which class wins stays, and how many follow, but not in which order they do.
    """
    if isinstance(value, dict):
        changing = ("request_id", "digest", "version", "variant")
        kept = {key: type(item).__name__ if key in changing else shape(item) for key, item in value.items()}
        if "predictions" in value:
            best, *others = kept["predictions"]
            kept["predictions"] = [best, *({key: type(item) for key, item in other.items()} for other in others)]
        return kept
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
