"""What `python -m service tune` measured on this machine, and where it is kept."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import onnxruntime

from service.quota import available_cores


def machine(provider: str) -> str:
    """Name what a tuning is valid for: processor, usable cores, onnxruntime's version, and CUDA where it runs there."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    name = f"{model}, {available_cores()} cores, onnxruntime {onnxruntime.__version__}"
    return name if provider == "cpu" else f"{name}, {provider}"


def read_tuning(path: Path | None, machine: str) -> dict[str, int]:
    """Return `runners` and `threads` for a machine; empty where nothing was measured here."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text()).get(machine, {})
    except (OSError, ValueError, AttributeError):
        return {}
    return {key: int(value) for key, value in found.items() if key in ("runners", "threads")}
