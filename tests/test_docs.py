"""The documents name what exists, all of it and nothing else."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from unittest.mock import create_autospec

import pytest

import bundle.__main__
import service.__main__
import training.__main__
from bundle.errors import ClearsightError
from service.app import create_app
from service.metrics import Metrics
from service.port import EnginePort
from service.settings import Settings, describe_settings

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
EXPECTED_PAGES = {
    "api.md", "bundle.md", "configuration.md", "operations.md", "performance.md", "training.md",
}  # fmt: skip


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "bundle": bundle.__main__.parser, "service": service.__main__.parser, "training": training.__main__.parser,
}  # fmt: skip
HTTP_FAULTS = ("not_found", "method_not_allowed")
"""What the HTTP layer itself can answer, by the name of the status."""


@cache
def text(*pages: Path) -> str:
    """Return the pages as one text."""
    return "\n".join(page.read_text() for page in pages or PAGES)


def endpoints() -> set[str]:
    """Return `METHOD /path` of every route; whatever a placeholder is called, it is written `<>`."""
    app = create_app(Settings(), create_autospec(EnginePort, instance=True))
    return {
        f"{method} {re.sub('<[^>]*>', '<>', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def documented_endpoints() -> set[str]:
    """Return every `METHOD /path` in the documents.

    "and `POST` to the same" in a line stands for that method on each of its paths; "with `/a` or `/b` behind it" for
    longer ones.
    """
    found: set[str] = set()
    for line in text(*DOCS).splitlines():
        named = re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s?]*)", line)
        also = re.findall(r"and `([A-Z]+)` to the same", line)
        ends = re.findall(r"`(/[a-z]+)`", line) if "behind it" in line else []
        for method, path in named:
            shown = re.sub("<[^>]*>", "<>", path)
            found |= {f"{each} {shown}{end}" for each in (method, *also) for end in ("", *ends)}
    return found


INTERNAL = {"CLEARSIGHT_SOCKET", "CLEARSIGHT_INSTANCE", "CLEARSIGHT_REPLACES"}
"""How the processes of one service find each other: set by the parent, never by a user."""


def settings() -> set[str]:
    """Return every variable that the service reads: the class of settings, and whatever else the code names."""
    named = re.findall(r"\bCLEARSIGHT_[A-Z0-9_]*[A-Z0-9]\b", code("bundle", "service", "training", "deploy"))
    return {name for name, _, _ in describe_settings()} | set(named) - INTERNAL


def documented_settings() -> set[str]:
    """Return every CLEARSIGHT_ variable in the documents but those of the compose files."""
    return set(re.findall(r"\bCLEARSIGHT_[A-Z0-9_]*[A-Z0-9]\b", text())) - {"CLEARSIGHT_PUBLISH"}


def metrics() -> set[str]:
    """Return every family that the registry exposes, and every other name that the code gives to one."""
    exposed = {line.split()[2] for line in Metrics().text().decode().splitlines() if line.startswith("# TYPE ")}
    named = set(re.findall(r"[\"'](clearsight_[a-z_]+)[\"']", code("bundle", "service", "training")))
    return exposed | {name for name in named if f"{name}_total" not in exposed}


def documented_metrics() -> set[str]:
    """Return every metric in the documents, a histogram's series by its family."""
    return _families(re.findall(r"\bclearsight_[a-z_]*[a-z]\b", text()))


def error_codes() -> set[str]:
    """Return the codes of every exception and literal answer; those of HTTP itself are made from its status."""
    for package in (bundle, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    ours = {error.code for error in _family(ClearsightError) if error.__module__.startswith(("bundle.", "service."))}
    literal = set(re.findall(r"""["']?code["']?\s*[:=]\s*["']([a-z_]+(?:\.[a-z_]+)+)["']""", code("bundle", "service")))
    return ours | literal | {f"http.{name}" for name in HTTP_FAULTS}


def documented_error_codes() -> set[str]:
    """Return the first column of the tables of errors in docs/api.md and docs/bundle.md."""
    found: set[str] = set()
    for page in ("api.md", "bundle.md"):
        section = re.search(r"^## Errors$(.*?)(?=^## |\Z)", text(ROOT / "docs" / page), re.MULTILINE | re.DOTALL)
        assert section, f"docs/{page} has no section '## Errors'"
        found |= set(re.findall(r"^\| `([a-z0-9_.]+)` \|", section[1], re.MULTILINE))
    return found


def commands() -> set[str]:
    """Return `python -m package command` of every command line, and `python -m module` of every bench."""
    found = {f"python -m {name} {command}" for name, parser in PARSERS.items() for command in _choices(parser())}
    benches = (path for path in (ROOT / "bench").glob("*.py") if '__name__ == "__main__"' in path.read_text())
    return found | {f"python -m bench.{path.stem}".removesuffix(".__main__") for path in benches}


def documented_commands() -> set[str]:
    """Return every `python -m package command` and `python -m bench…` in the documents."""
    return set(re.findall(r"python -m (?:(?:bundle|service|training) [a-z][a-z-]*|bench(?:\.[a-z]+)*)", text()))


def make_targets() -> set[str]:
    """Return every target of the Makefile that has a name of its own."""
    return {
        f"make {name}"
        for name in re.findall(r"^([a-z][a-z0-9-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    }


def documented_make_targets() -> set[str]:
    """Return every `make target` that is set as code, on a line of its own or in a sentence."""
    return set(re.findall(r"(?:`|^(?:\$ )?)(make [a-z][a-z0-9-]*)", text(), re.MULTILINE))


FACTS: dict[str, tuple[Callable[[], set[str]], Callable[[], set[str]]]] = {
    "endpoints": (endpoints, documented_endpoints),
    "settings": (settings, documented_settings),
    "metrics": (metrics, documented_metrics),
    "error codes": (error_codes, documented_error_codes),
    "commands": (commands, documented_commands),
    "make targets": (make_targets, documented_make_targets),
}


@pytest.mark.parametrize("kind", FACTS)
def test_what_exists_is_documented(kind: str) -> None:
    """Whatever a user can call, set, read or meet is in the documents."""
    existing, documented = FACTS[kind]
    assert existing(), f"no {kind} found"
    missing = sorted(existing() - documented())
    assert not missing, f"not documented: {', '.join(missing)}"


@pytest.mark.parametrize("kind", FACTS)
def test_what_is_documented_exists(kind: str) -> None:
    """The documents name nothing that is gone or was never there."""
    existing, documented = FACTS[kind]
    surplus = sorted(documented() - existing())
    assert not surplus, f"documented, but not there: {', '.join(surplus)}"


def test_the_documents_are_all_there() -> None:
    """Each subject has its page."""
    assert {page.name for page in DOCS} >= EXPECTED_PAGES


@pytest.mark.parametrize("target", sorted(make_targets()))
def test_a_make_target_can_be_planned_from_nothing(target: str, tmp_path: Path) -> None:
    """In a checkout without an environment, make knows every step and has nothing to warn of."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "--dry-run", target.removeprefix("make ")], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    """Relative links and pictures point at files, and anchors at headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path) if path else page
        assert aim.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(aim), f"{page.name}: {target}"


def _anchors(page: Path) -> Iterable[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(*folders: str) -> str:
    """Return the source of packages as one text."""
    return "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def _choices(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.choices or () if isinstance(action.choices, dict)}


def _families(names: Iterable[str]) -> set[str]:
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names}


def _family(error: type[ClearsightError]) -> set[type[ClearsightError]]:
    return {error}.union(*(_family(child) for child in error.__subclasses__()))
