"""Graphs made elsewhere, imported and served over HTTP, give what their own reference code gives for photographs."""

from __future__ import annotations

import pytest
from foreign import LABELS, STYLES, encoded, file_of, photographs

from bundle.__main__ import main
from service.app import create_app
from service.engine.engine import Engine, running
from service.metrics import Metrics
from service.settings import Settings

FIXED = {"fixed batch": ({"batch": 4, "reshape_to": [4, 8], "allowzero": True}, *STYLES["torch"][1:])}


@pytest.mark.parametrize(("made", "options", "reference"), (STYLES | FIXED).values(), ids=(STYLES | FIXED).keys())
def test_http_gives_what_the_reference_gives(tmp_path, made, options, reference):
    path = file_of(tmp_path / "model.onnx", **made)
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    store = tmp_path / "store"
    arguments = ["--store", str(store), "import", str(path), "--name", "foreign", "--labels", str(labels), *options]
    assert main(arguments) == 0
    settings = Settings(store=store, default_model="foreign", device="cpu", warmup_s=0.1)
    with running(Engine(settings, Metrics())) as engine:
        client = create_app(settings, engine).test_client()
        for photograph in photographs():
            reply = client.post("/predict?top_k=5", data=encoded(photograph), content_type="image/png")
            assert reply.status_code == 200, reply.get_data(as_text=True)
            answered = {one["label"]: one["probability"] for one in reply.get_json()["predictions"]}
            expected = dict(zip(LABELS, reference(photograph).tolist(), strict=True))
            assert answered == pytest.approx(expected, abs=3e-3)
