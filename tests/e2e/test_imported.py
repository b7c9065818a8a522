"""Graphs made elsewhere, imported and served over HTTP, give what their own reference code gives for photographs."""

from __future__ import annotations

import json
import urllib.request

import pytest
from foreign import LABELS, STYLES, encoded, file_of, photographs

from bench.fidelity import post, probabilities_of
from bundle.__main__ import main
from tests.e2e.running import wait_for
from tests.running import serving

FIXED = {"fixed": ({"batch": 4, "reshape_to": [4, 8], "allowzero": True}, *STYLES["torch"][1:])}
"""A graph that takes four images at a time and nothing else."""
ALL = STYLES | FIXED


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A real server over a store into which every file was imported by the command, under its style's name."""
    folder = tmp_path_factory.mktemp("imported")
    labels, store = folder / "labels.txt", folder / "store"
    labels.write_text("\n".join(LABELS))
    for name, (made, options, _) in ALL.items():
        path = file_of(folder / f"{name}.onnx", **made)
        command = ["--store", str(store), "import", str(path), "--name", name, "--labels", str(labels), *options]
        assert main(command) == 0
    with serving(store, "torch") as running:
        wait_for(lambda: states(running.url) == dict.fromkeys(ALL, "ready"), 60, "every imported model to be ready")
        yield running


def states(url):
    with urllib.request.urlopen(f"{url}/models", timeout=30) as answer:
        return {model["name"]: model["state"] for model in json.load(answer)["models"]}


@pytest.mark.parametrize("name", ALL)
def test_http_gives_what_the_reference_gives(service, name):
    for photograph in photographs():
        status, reply = post(service.url, encoded(photograph), len(LABELS), name)
        assert status == 200, reply
        assert reply["model"]["name"] == name
        expected = ALL[name][2](photograph).tolist()
        # The service resamples only what the crop keeps, in one step, which may round a pixel to its neighbour.
        assert probabilities_of(reply, len(LABELS)) == pytest.approx(expected, abs=3e-3)
        assert max(expected) - min(expected) > 0.01, "a reference that answers the same to all would prove nothing"
