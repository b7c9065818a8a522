"""The service takes no graph that reaches outside its bundle, and no golden answer that changes its label."""

from __future__ import annotations

import json

import onnx
import pytest
from onnx import TensorProto, helper

from bundle.errors import BundleError
from bundle.store import Store, fact_of
from service.engine.devices import CPU
from service.engine.loading import Threading, load_lane
from service.engine.network import open_session
from service.settings import Settings
from tests.factory import publish_colors


def external_data(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def foreign_operator(model):
    model.graph.node.append(helper.make_node("Shell", ["image"], ["never"], domain="evil.example"))


def close_call(values):
    for image in values["golden"]["images"]:
        image["probabilities"] = image["probabilities"][::-1]
    values["golden"]["tolerance"]["fp32"]["cpu"] = 1.0


@pytest.mark.parametrize(
    ("change", "edit", "said"),
    [
        (external_data, None, "in another file"),
        (foreign_operator, None, "operators of domain 'evil.example'"),
        (None, close_call, "instead of"),
    ],
    ids=["external data", "foreign operator", "golden label"],
)
def test_such_a_bundle_is_refused_by_name(tmp_path, change, edit, said):
    path = publish_colors(tmp_path).path
    values = json.loads((path / "bundle.json").read_text())
    if change:
        model = onnx.load(path / "model.onnx")
        change(model)
        (path / "model.onnx").write_bytes(model.SerializeToString())
        fact = fact_of(path / "model.onnx")
        values["files"]["model.onnx"] = {"sha256": fact.sha256, "bytes": fact.bytes}
    if edit:
        edit(values)
    (path / "bundle.json").write_text(json.dumps(values))
    settings = Settings(store=tmp_path, default_model="colors", device="cpu", warmup_s=0.1)
    with pytest.raises(BundleError, match=said):
        load_lane(Store(tmp_path).open("colors"), CPU, Threading(1, 1, 1), settings)


class Reversed:
    """A session that gives the right probabilities to the wrong labels."""

    def __init__(self, session):
        self.session = session

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, *given):
        return [values[:, ::-1] for values in self.session.run(*given)]


def test_the_session_for_lone_requests_proves_itself_too(tmp_path, monkeypatch):
    def opened(model, device, threads):
        session = open_session(model, device, threads)
        return Reversed(session) if threads == 2 else session

    monkeypatch.setattr("service.engine.loading.open_session", opened)
    publish_colors(tmp_path)
    settings = Settings(store=tmp_path, default_model="colors", device="cpu", warmup_s=0.1)
    bundle = Store(tmp_path).open("colors")
    assert load_lane(bundle, CPU, Threading(1, 1, 1), settings)[0].network.wide is None
    with pytest.raises(BundleError, match="differs by"):
        load_lane(bundle, CPU, Threading(2, 1, 2), settings)
