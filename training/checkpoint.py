"""Checkpoints: written whole or not at all, read back as tensors and plain values only."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from training.errors import RunError


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically and durably: a reader, or a crash, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values with `torch.save`, atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as handle:
        torch.save(dict(state), handle)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint with `weights_only`, so a file can hold data but no code. Raises `RunError`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        why = (str(error) or "it is empty").splitlines()[0]
        raise RunError(f"{path} is not a readable checkpoint: {why}") from None
    if not isinstance(state, dict):
        raise RunError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors")
    return state
