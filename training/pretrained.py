"""Weights that others trained: where they come from and which of them fit."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.checkpoint import load
from training.errors import RunError
from training.models import Classifier


@dataclass(frozen=True, slots=True)
class Transfer:
    """Which tensors were loaded, which of the network's kept their fresh values, and which of the file were unused."""

    loaded: tuple[str, ...]
    replaced: tuple[str, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def sentence(self) -> str:
        """Say it to a person."""
        fresh = f"; fresh: {', '.join(self.replaced)}" if self.replaced else ""
        return f"{len(self.loaded)} tensors loaded, {len(self.replaced)} replaced, {len(self.skipped)} skipped{fresh}"


def transfer(model: Classifier, name: str, weights: str) -> Transfer:
    """Load weights into a fresh network; its head keeps fresh values where the number of classes differs.

    Any other difference is an error. Raises `RunError` naming the first tensor that does not fit.
    """
    state, own, head = read_weights(name, weights), model.state_dict(), head_tensors(model)
    replaced = {key for key in head if key in state and state[key].shape != own[key].shape}
    wrong = [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{key} is unexpected" for key in state if key not in own]
    wrong += [
        f"{key} is {tuple(state[key].shape)}, the network has {tuple(own[key].shape)}"
        for key in own
        if key in state and key not in replaced and state[key].shape != own[key].shape
    ]
    if wrong:
        raise RunError(f"{weights} does not fit {name}: {wrong[0]} ({len(wrong)} differences)")
    used = {key: value for key, value in state.items() if key not in replaced}
    model.load_state_dict(used, strict=False)
    return Transfer(tuple(used), tuple(sorted(replaced)), tuple(sorted(replaced)))


def head_tensors(model: Classifier) -> set[str]:
    """Return the state-dict names of the head's tensors."""
    ours = {id(value) for value in model.head.parameters()}
    return {key for key, value in model.named_parameters() if id(value) in ours}


def read_weights(name: str, weights: str) -> dict[str, Tensor]:
    """Read a state dict: `DEFAULT` (torchvision's for `name`), a web address, or a local .pth or .safetensors file."""
    if weights == "DEFAULT":
        return _default(name)
    if weights.startswith(("https://", "http://")):
        return _read_file(_fetched(weights))
    return _read_file(Path(weights))


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise RunError(f"{path} is not a readable safetensors file: {error}") from None
    return load(path)


def _fetched(address: str) -> Path:
    """Return the local copy of a file, kept beside torch's own downloads; its name holds a hash of the address."""
    name = Path(urlsplit(address).path).name
    known = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{key}-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), known[1] if known else None, progress=False)
        except (OSError, RuntimeError, ValueError) as error:  # the network, the hash, the address
            raise RunError(f"{address} cannot be fetched: {error}; a local file works offline") from None
    return path


def _default(name: str) -> dict[str, Tensor]:
    if name not in torchvision.models.list_models(torchvision.models):
        raise RunError(f"torchvision has no weights for {name}; give a file or an address in model.weights")
    try:
        return dict(torchvision.models.get_model_weights(name).DEFAULT.get_state_dict(progress=False))
    except Exception as error:  # offline, or a damaged download
        raise RunError(
            f"torchvision's weights for {name} cannot be fetched: {error}; a local file works offline"
        ) from None
