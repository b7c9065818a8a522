"""The compose files say what the images and the service need."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
GPU = "docker-compose.gpu.yml"


def services(file: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / file).read_text())["services"])


@pytest.mark.parametrize("file", ["docker-compose.yml", GPU])
def test_every_target_that_is_built_is_in_the_dockerfile(file: str) -> None:
    targets = {service["build"]["target"] for service in services(file).values() if "build" in service}
    assert targets
    assert targets <= set(re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE))


def test_the_gpu_is_reserved_and_demanded() -> None:
    """With the second file the service gets one GPU, and does not start without CUDA."""
    service = services(GPU)["service"]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert Settings(device=service["environment"]["CLEARSIGHT_DEVICE"]).device == "cuda!"
    assert service["build"]["target"] == "service-gpu"


def test_the_health_check_of_compose_is_that_of_the_image() -> None:
    [image] = re.findall(r"^HEALTHCHECK .*\\\n  CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert services("docker-compose.yml")["service"]["healthcheck"]["test"][1:] == yaml.safe_load(image)[0:]


def test_compose_gives_the_service_longer_to_stop_than_it_takes_to_drain() -> None:
    """`stop_grace_period` exceeds the drain settings' defaults and what the parent adds to them."""
    grace = services("docker-compose.yml")["service"]["stop_grace_period"]
    settings = Settings()
    assert int(grace.removesuffix("s")) > settings.drain_pause_s + settings.drain_s + 5
