"""The device policy: what is asked of onnxruntime, and what it really does.

onnxruntime falls back to the CPU without an error, so the only answer that counts is `session.get_providers()` of a
session that was built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from service.errors import DeviceUnavailable
from service.settings import Settings

_NAMES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
_WARNING = 2
_FATAL = 4
"""onnxruntime's log level that says nothing of a provider that it could not load: the policy says it instead."""


@dataclass(frozen=True, slots=True)
class Device:
    """A provider and how sessions on it are opened and fed."""

    provider: str
    """`cpu` or `cuda`."""
    requested: list[tuple[str, dict[str, str]]]
    pads: bool
    """Whether batches are padded to a few sizes because the provider tunes itself to each new shape."""
    splits: bool
    """Whether free runners share what is queued (cores) instead of one taking all of it (one accelerator)."""


CPU = Device("cpu", [("CPUExecutionProvider", {})], pads=False, splits=True)


def cuda(settings: Settings) -> Device:
    """Describe the CUDA device with the options that the settings give."""
    options = {
        "device_id": str(settings.cuda_device),
        "cudnn_conv_algo_search": settings.cuda_conv_search,
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "1",
        "use_tf32": str(int(settings.cuda_tf32)),
    }
    if settings.cuda_memory_bytes:
        options["gpu_mem_limit"] = str(settings.cuda_memory_bytes)
    requested = [("CUDAExecutionProvider", options), ("CPUExecutionProvider", {})]
    return Device("cuda", requested, pads=True, splits=False)


def choose_device(settings: Settings, model: bytes) -> tuple[Device, str]:
    """Return the device that the policy gives for this sealed graph, and a sentence when it is not what was preferred.

    Raises `DeviceUnavailable` with the reason under `cuda!` where CUDA does not run the graph.
    """
    if settings.device == "cpu":
        return CPU, ""
    wanted = cuda(settings)
    reason = _why_not(wanted, model)
    if not reason:
        ort.set_default_logger_severity(_FATAL)  # it logs every cuDNN plan that does not exist; failures are raised
        return wanted, ""
    if settings.device == "cuda!":
        raise DeviceUnavailable(f"CLEARSIGHT_DEVICE=cuda! but {reason}")
    return CPU, f"CUDA is preferred but {reason}; serving on the CPU"


def _why_not(device: Device, model: bytes) -> str:
    """Say why a session on the device does not run there; nothing when it does."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider (is onnxruntime-gpu installed?)"
    preload_cuda()
    ort.set_default_logger_severity(_FATAL)
    try:
        session = ort.InferenceSession(model, quiet_options(), providers=device.requested)
    except Exception as error:  # the native layer raises several unrelated types
        return f"the CUDA session failed: {str(error).splitlines()[0][:200]}"
    finally:
        ort.set_default_logger_severity(_WARNING)
    got = provider_of(session)
    return "" if got == device.provider else "the session runs on the CPU (is a driver and a device there?)"


def preload_cuda() -> None:
    """Load CUDA and cuDNN from pip's packages where they are installed; before the first session on CUDA."""
    import contextlib
    import io

    if not hasattr(ort, "preload_dlls"):
        return
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find
        ort.preload_dlls()


def quiet_options() -> Any:
    """Return session options under which onnxruntime prints nothing."""
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    return options


def provider_of(session: Any) -> str:
    """Return `cpu` or `cuda`: the first provider that the session was really built with."""
    first: str = session.get_providers()[0]
    return _NAMES.get(first, first)
