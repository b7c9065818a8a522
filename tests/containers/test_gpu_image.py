"""The image for NVIDIA GPUs, as far as a container that was given none can show it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator

import pytest
import requests
import yaml

from tests.containers.stack import (
    BUILD_S,
    JPEG,
    LOOK,
    ROOT,
    UNPRIVILEGED,
    compose,
    engine,
    engine_name,
    eventually,
    look,
    photograph,
)
from tests.running import free_port

pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_S + 300)]
IMAGE = "clearsight-service-gpu"
CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    _compose("build", "service")


def test_the_compose_file_reserves_a_gpu_and_insists_on_cuda() -> None:
    """docker-compose.gpu.yml takes the GPU image, reserves a GPU, and lets the service start with CUDA only."""
    service = yaml.safe_load(_compose("config"))["services"]["service"]
    assert (service["build"]["target"], service["image"]) == ("service-gpu", IMAGE)
    assert service["environment"] == {"CLEARSIGHT_DEVICE": "cuda!"}
    device = service["deploy"]["resources"]["reservations"]["devices"][0]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])


def test_the_image_is_unprivileged_and_holds_no_torch() -> None:
    """As the image for CPUs."""
    packages = ("onnxruntime", "torch", "training", "onnx", "pip")
    found = look(engine("run", "--rm", *CONFINED, IMAGE, "python", "-c", LOOK, *packages))
    assert found == found | UNPRIVILEGED | {"packages": ["onnxruntime"]}


CUDA = """
import contextlib, ctypes, io, json, onnxruntime, pathlib
with contextlib.redirect_stdout(io.StringIO()) as said: onnxruntime.preload_dlls()
libraries = pathlib.Path(onnxruntime.__file__).parent / 'capi'
ctypes.CDLL(str(libraries / 'libonnxruntime_providers_shared.so'), mode=ctypes.RTLD_GLOBAL)
try: ctypes.CDLL(str(libraries / 'libonnxruntime_providers_cuda.so')); missing = ''
except OSError as error: missing = str(error).split(':')[0]
print(json.dumps([onnxruntime.get_available_providers(), said.getvalue(), missing]))
"""


def test_nothing_but_the_driver_is_missing() -> None:
    """onnxruntime has its CUDA provider, CUDA and cuDNN load from the packages, and only the host's libcuda is left."""
    providers, failures, missing = json.loads(engine("run", "--rm", *CONFINED, IMAGE, "python", "-c", CUDA))
    assert "CUDAExecutionProvider" in providers
    assert failures == ""
    assert missing in ("libcuda.so.1", "")


def test_without_a_gpu_it_refuses_to_start() -> None:
    """Its default is `cuda!`: exit code 3, and one line that says why."""
    done = subprocess.run([engine_name(), "run", "--rm", *CONFINED, IMAGE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert "CLEARSIGHT_DEVICE=cuda! but the session runs on the CPU (is a driver and a device there?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_serves_on_the_cpu_where_cuda_is_only_preferred() -> None:
    """With `cuda?` and no GPU it answers, and readiness, the reply's header and the log name the CPU."""
    with _serving("cuda?") as (url, name):
        assert requests.get(f"{url}/readyz", timeout=5).json()["device"] == "cuda? -> cpu"
        reply = requests.post(f"{url}/predict", data=photograph(500, 375), headers=JPEG, timeout=30)
        assert (reply.status_code, reply.headers["Clearsight-Provider"]) == (200, "cpu")
        assert "CUDA is preferred but" in _log(name)


@contextlib.contextmanager
def _serving(device: str) -> Iterator[tuple[str, str]]:
    address, name = f"127.0.0.1:{free_port()}", f"clearsight-gpu-test-{os.getpid()}"
    words = ("--detach", "--name", name, "--publish", f"{address}:8000", "--env", f"CLEARSIGHT_DEVICE={device}")
    engine("run", *words, *CONFINED, IMAGE)
    try:
        eventually(lambda: requests.get(f"http://{address}/readyz", timeout=2).status_code == 200, 120)
        yield f"http://{address}", name
    finally:
        engine("rm", "--force", name)


def _log(name: str) -> str:
    done = subprocess.run([engine_name(), "logs", name], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def _compose(*words: str) -> str:
    files = ("--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml")
    done = subprocess.run([*compose(), *files, *words], cwd=ROOT, capture_output=True, text=True, timeout=BUILD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
