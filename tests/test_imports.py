"""The packages keep to their import rules: each module is imported in a process where the forbidden ones are absent."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.extras import extra

ROOT = Path(__file__).parent.parent

FORBIDDEN = {
    "bundle": ("service", "training", "torch", "torchvision", "flask", "gunicorn"),
    "service": ("training", "torch", "torchvision", "onnx"),
    "training": ("service", "flask", "gunicorn", "prometheus_client"),
}
GRAPH_FREE = ("bundle.errors", "bundle.manifest", "bundle.preprocess", "bundle.store")
"""What the service reads bundles with; these must work where neither onnx nor onnxruntime can be imported."""

PROGRAM = """
import importlib, importlib.abc, sys
forbidden = set(sys.argv[1].split(","))

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"{name} is forbidden here", name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        sys.exit(f"{name}: {error}")
"""


def modules(package: str) -> list[str]:
    """List a package's modules, all the way down."""
    found = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
    return [package, *sorted(module.name for module in found)]


def import_without(forbidden: tuple[str, ...], names: list[str]) -> subprocess.CompletedProcess[str]:
    """Import modules in a fresh process in which the forbidden packages cannot be found."""
    command = [sys.executable, "-c", PROGRAM, ",".join(forbidden), *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_never_imports_what_is_forbidden_to_it(package: str) -> None:
    """Every module of the package imports without the packages on the other side of the house."""
    done = import_without(FORBIDDEN[package], modules(package))
    assert done.returncode == 0, done.stderr


def test_bundles_are_read_without_onnx_and_onnxruntime() -> None:
    """Manifest, store and preprocessing need no graph library."""
    done = import_without((*FORBIDDEN["bundle"], "onnx", "onnxruntime"), list(GRAPH_FREE))
    assert done.returncode == 0, done.stderr


def test_only_the_engine_imports_onnxruntime() -> None:
    """Workers that share an engine process carry no copy of onnxruntime."""
    # Server and remote work are the engine process's end of the wire; `tune` measures in a process of its own.
    inside = ("service.engine", "service.ipc.server", "service.ipc.remote", "service.tune")
    outside = [name for name in modules("service") if not name.startswith(inside)]
    done = import_without((*FORBIDDEN["service"], "onnxruntime"), outside)
    assert done.returncode == 0, done.stderr


def test_the_guard_notices_an_import() -> None:
    """A module that imports what is forbidden fails the check by name."""
    done = import_without(("numpy",), ["bundle.preprocess"])
    assert done.returncode == 1
    assert "numpy is forbidden here" in done.stderr


@pytest.mark.parametrize(
    ("package", "absent"), [("training", "torch"), ("service", "structlog"), ("bench", "psutil")], ids=str
)
def test_a_command_without_its_extra_says_what_to_install(package: str, absent: str) -> None:
    """No traceback, but the library, the extra that brings it, and the command."""
    program = PROGRAM.partition("for name in")[0] + f"import runpy; runpy.run_module({package!r}, run_name='__main__')"
    command = [sys.executable, "-c", program, absent, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert done.stderr == (
        f'error: {absent} is not installed; the extra "{package}" brings it: '
        f"in the clone, pip install --constraint constraints.txt --editable '.[{package}]'\n"
    )


def test_a_module_of_our_own_that_is_missing_is_no_missing_extra() -> None:
    """Such a mistake stays a traceback."""
    with pytest.raises(ModuleNotFoundError, match=r"service\.nowhere"), extra("service"):
        importlib.import_module("service.nowhere")
