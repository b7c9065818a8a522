"""`verify` passes a true bundle and names the fault of a damaged one, also where every hash was made to fit again."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from factory import color_core, color_draft, color_image
from onnx import TensorProto, helper, numpy_helper

from bundle.__main__ import main
from bundle.draft import SealedVariant
from bundle.front import Front
from bundle.graph import seal
from bundle.stamp import Stamp
from bundle.store import Store, fact_of

SHIPPED = Store(Path(__file__).parents[2] / "exported")


class Copy:
    """A published bundle's folder and its `bundle.json` as plain values, open to damage."""

    def __init__(self, folder):
        self.folder = folder
        self.values = json.loads((folder / "bundle.json").read_text())

    def rehash(self):
        for file in self.values["files"]:
            fact = fact_of(self.folder / file)
            self.values["files"][file] = {"sha256": fact.sha256, "bytes": fact.bytes}
        self.write()

    def write(self):
        (self.folder / "bundle.json").write_text(json.dumps(self.values))

    def model(self, change):
        model = onnx.load(self.folder / "model.onnx")
        change(model)
        (self.folder / "model.onnx").write_bytes(model.SerializeToString())
        self.rehash()


def int8_twin():
    front = Front("NCHW", "RGB", 255.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    roles = {"logits": "logits", "embedding": "embedding"}
    return seal(color_core(4.001), front, roles, Stamp(("red", "green", "blue"), variant="int8")).SerializeToString()


@pytest.fixture
def copy(tmp_path):
    draft = color_draft()
    draft.variants["int8"] = SealedVariant(int8_twin())
    draft.publish(Store(tmp_path))
    return Copy(tmp_path / "colors" / "1")


def flip_byte(c):
    raw = bytearray((c.folder / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (c.folder / "model.onnx").write_bytes(raw)


def truncate(c):
    raw = (c.folder / "model.onnx").read_bytes()
    (c.folder / "model.onnx").write_bytes(raw[: len(raw) * 2 // 3])


def truncate_and_rehash(c):
    truncate(c)
    c.rehash()


def write_key(*path, value):
    def change(c):
        inner = c.values
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        c.write()

    return change


def drop_key(key):
    def change(c):
        del c.values[key]
        c.write()

    return change


def drop_label(c):
    c.values["labels"].pop()
    c.write()


def swap_files(c):
    shutil.move(c.folder / "model.onnx", c.folder / "x")
    shutil.move(c.folder / "model.int8.onnx", c.folder / "model.onnx")
    shutil.move(c.folder / "x", c.folder / "model.int8.onnx")
    c.rehash()


def wrong_golden(c):
    c.values["golden"]["images"][1]["probabilities"] = [0.2, 0.7, 0.1]
    c.write()


def other_golden_image(c):
    (c.folder / "golden" / "red.png").write_bytes(color_image("blue"))
    c.rehash()


def golden_of_text(c):
    (c.folder / "golden" / "red.png").write_text("no image")
    c.rehash()


def symlink_out(c):
    target = c.folder.parent.parent / "outside"
    shutil.move(c.folder / "model.onnx", target)
    (c.folder / "model.onnx").symlink_to(target)


def symlinked_folder(c):
    target = c.folder.parent.parent / "outside"
    shutil.move(c.folder / "golden", target)
    (c.folder / "golden").symlink_to(target)


def pipe_for_a_file(c):
    (c.folder / "model.onnx").unlink()
    os.mkfifo(c.folder / "model.onnx")


def climb_out(c):
    c.values["files"]["../../secret"] = c.values["files"]["model.onnx"]
    c.write()


def external_data(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def external_data_in_a_branch(model):
    inner = helper.make_tensor("hidden", TensorProto.FLOAT, [1], b"\0" * 4, raw=True)
    external = onnx.ModelProto()
    external.graph.initializer.append(inner)
    external_data(external)
    constant = helper.make_node("Constant", [], ["v"], value=external.graph.initializer[0])
    branch = helper.make_graph([constant], "b", [], [])
    model.graph.node.append(helper.make_node("If", ["condition"], ["never"], then_branch=branch, else_branch=branch))


def foreign_operator(model):
    model.graph.node.append(helper.make_node("Shell", ["image"], ["never"], domain="evil.example"))


def compiled_context(model):
    model.graph.node.append(helper.make_node("EPContext", ["image"], ["never"], domain="com.microsoft"))


def other_weights(model):
    tensor = next(t for t in model.graph.initializer if t.name == "core/fc")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(1.02) * numpy_helper.to_array(tensor), tensor.name))


def not_numbers(model):
    tensor = next(t for t in model.graph.initializer if t.name == "core/bias")
    tensor.CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), tensor.name))


CORRUPTIONS = {
    "flipped byte": (flip_byte, "model.onnx has sha256"),
    "truncated file": (truncate, "model.onnx is"),
    "truncated, hashes fitted": (truncate_and_rehash, "not a whole ONNX file"),
    "missing model": (lambda c: (c.folder / "model.onnx").unlink(), "model.onnx is listed in bundle.json but missing"),
    "missing golden image": (lambda c: (c.folder / "golden/red.png").unlink(), "golden/red.png is listed"),
    "missing bundle.json": (lambda c: (c.folder / "bundle.json").unlink(), "has no bundle.json"),
    "file that is not listed": (lambda c: (c.folder / "more.py").write_text("1"), "more.py is not listed"),
    "not JSON": (lambda c: (c.folder / "bundle.json").write_text("{"), "Invalid JSON"),
    "unknown key": (write_key("colour", value=1), "bundle.json: colour: Extra inputs are not permitted"),
    "missing key": (drop_key("temperature"), "bundle.json: temperature: Field required"),
    "one label less": (drop_label, "probabilities has 3 classes but labels has 2"),
    "labels in another order": (write_key("labels", value=["green", "red", "blue"]), "sealed with other labels"),
    "other interpolation": (write_key("preprocessing", "interpolation", value="nearest"), "differs by"),
    "other crop": (write_key("preprocessing", "crop_size", value=[4, 4]), "preprocessing makes 4x4 but input is 8x8"),
    "swapped variants": (swap_files, "model.onnx was sealed as int8 but bundle.json calls it fp32"),
    "other temperature": (write_key("temperature", value=2.0), "sealed with temperature 1.0, not 2.0"),
    "other output": (write_key("outputs", 2, "name", value="features"), "but bundle.json says"),
    "other version": (write_key("version", value=7), "not colors version 1"),
    "wrong golden": (wrong_golden, "golden image golden/green.png differs by"),
    "other golden image": (other_golden_image, "golden image golden/red.png differs by"),
    "golden image of text": (golden_of_text, "golden image golden/red.png: "),
    "symlink out": (symlink_out, "model.onnx is a symbolic link"),
    "symlinked folder": (symlinked_folder, "golden is a symbolic link"),
    "a pipe for a file": (pipe_for_a_file, "not a regular file"),
    "path that climbs out": (climb_out, "../../secret"),
    "file above 2 GiB": (write_key("files", "model.onnx", "bytes", value=2**40), "files.model.onnx.bytes"),
    "external data": (lambda c: c.model(external_data), "in another file"),
    "external data in a branch": (lambda c: c.model(external_data_in_a_branch), "tensor 'hidden' in another file"),
    "foreign operator": (lambda c: c.model(foreign_operator), "operators of domain 'evil.example'"),
    "compiled context": (lambda c: c.model(compiled_context), "EPContext"),
    "other weights": (lambda c: c.model(other_weights), "fp32 on cpu: golden image"),
    "weights that are no numbers": (lambda c: c.model(not_numbers), "differs by nan"),
}


@pytest.mark.parametrize(("damage", "sentence"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_damaged_bundle_fails_with_the_reason(copy, capsys, damage, sentence):
    store = str(copy.folder.parent.parent)
    assert main(["--store", store, "verify", "colors/1"]) == 0
    capsys.readouterr()
    damage(copy)
    assert main(["--store", store, "verify", "colors/1"]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1, "one sentence"


@pytest.mark.parametrize("name", SHIPPED.names())
def test_shipped_bundles_verify_and_carry_their_evidence(capsys, name):
    for version in SHIPPED.versions(name):
        assert main(["--store", str(SHIPPED.root), "verify", f"{name}/{version}"]) == 0
        said, manifest = capsys.readouterr().out, SHIPPED.open(name, version).manifest
        assert all(f"{name}/{version} {variant}: " in said for variant in manifest.variants)
        assert None not in (manifest.metrics, manifest.parity, manifest.drift, manifest.explain)
        assert all(one.accuracy and one.latency_ms["cpu"] for one in manifest.variants.values())
        assert {"checkpoint.pt", "training_digests.bin", "report/report.html"} <= set(manifest.files)
        assert re.match("[0-9a-f]{40}", manifest.lineage.code)


def test_nothing_is_published_when_a_proof_fails(tmp_path):
    draft = color_draft()
    draft.variants["int8"] = SealedVariant(draft.variants["fp32"].raw)
    with pytest.raises(Exception, match="sealed as fp32 but"):
        draft.publish(Store(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert Store(tmp_path).names() == []
