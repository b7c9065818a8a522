"""An export proves itself before it is published, and leaves nothing behind when it cannot."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import training.export as export_module
from bundle import session
from bundle.describe import inspection
from bundle.preprocess import preprocess
from bundle.store import Store
from bundle.verify import verify
from training.__main__ import main
from training.core import TRACED_BATCH, export_core
from training.data.augment import Normalise
from training.digests import leaked
from training.proof import BATCH_SIZES
from training.runs import load_run

BUDGET = 0.03
"""Two epochs leave a network that int8 harms more than one that has learned."""


@pytest.fixture(scope="module")
def run(tiny_run):
    loaded = load_run(tiny_run)
    settings = loaded.recipe.export.model_copy(update={"latency_batch_sizes": (1,), "max_top1_drop": BUDGET})
    loaded.recipe = loaded.recipe.model_copy(update={"export": settings})
    return loaded


@pytest.fixture(scope="module")
def core(run):
    """PyTorch's exporter takes seconds, so it runs once here."""
    return export_core(run.model, 1, (8, 8))


def handing_out(core, damage=lambda core: core):
    copy = onnx.ModelProto()
    copy.CopyFrom(core)
    return lambda *_: damage(copy)


@pytest.fixture(scope="module")
def store(run, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    export_module.export(run).draft.publish(store)
    return store


@pytest.fixture(scope="module")
def bundle(store):
    return store.open("digits", 1)


def test_the_bundle_verifies_with_every_variant(store, bundle):
    assert {replay.variant for replay in verify(store, bundle)} == {"fp32", "fp16", "int8"}


def test_the_recorded_accuracy_is_what_training_measured(run, bundle):
    measured = json.loads((run.path / "test.json").read_text())
    assert bundle.manifest.metrics.n == len(run.data.test) == measured["n"]
    assert bundle.manifest.metrics.top1 == measured["top1"]
    per_class = bundle.manifest.metrics.per_class
    assert {label: c.support for label, c in per_class.items()} == {
        label: run.data.test.targets().count(i) for i, label in enumerate(run.labels)
    }


def test_parity_was_proved_at_sizes_that_were_not_traced(bundle):
    parity = bundle.manifest.parity
    assert parity.batch_sizes == BATCH_SIZES == (1, 2, 7, 32)
    assert TRACED_BATCH not in BATCH_SIZES
    assert parity.max_logit_difference <= parity.tolerance
    assert parity.batch_invariance <= parity.batch_invariance_tolerance
    assert sum(parity.nodes_by_provider["cpu"].values()) > 0


def test_the_sealed_graph_gives_what_pytorch_gives(run, bundle):
    split = run.data.test
    rows = np.stack([preprocess(split.encoded(i), run.preprocessing).pixels for i in range(50)])
    with torch.inference_mode():
        logits = run.model(Normalise(run.mean, run.std)(torch.from_numpy(rows)))
    expected = (logits / bundle.manifest.temperature).softmax(dim=1).numpy()
    opened = session.open_session(bundle.read("model.onnx"))
    np.testing.assert_allclose(session.run(opened, rows)["probabilities"], expected, atol=1e-5)


def test_variants_carry_their_evidence(bundle):
    variants = bundle.manifest.variants
    for name in ("int8", "fp16"):
        accuracy = variants[name].accuracy
        assert accuracy.difference >= -BUDGET
        low, high = accuracy.difference_interval
        assert low <= accuracy.difference <= high
        assert accuracy.agreement > 0.95
        assert len(bundle.read(variants[name].file)) < len(bundle.read("model.onnx"))
        assert variants[name].latency_ms["cpu"]["1"] > 0
        assert "cuda" not in variants[name].latency_ms, "what was not measured is not claimed"


def test_int8_touches_the_core_only(bundle):
    graph = onnx.load_from_string(bundle.read("model.int8.onnx")).graph
    quantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    users = {node.name for node in graph.node if quantised.intersection(node.input)} - {
        node.name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    assert sum(node.op_type == "Conv" for node in graph.node if node.name in users) >= 7
    assert not [name for name in users if name.startswith("seal/")]
    assert bundle.manifest.variants["int8"].float_nodes


def test_golden_images_are_held_out_and_of_several_classes(run, bundle):
    golden = bundle.manifest.golden.images
    held_out = {run.data.test.encoded(i) for i in range(len(run.data.test))}
    assert len(golden) == 8
    assert all(bundle.read(image.file) in held_out for image in golden)
    assert len({int(np.argmax(image.probabilities)) for image in golden}) == 8


def test_the_drift_baseline_is_the_validation_split(run, bundle):
    drift = bundle.manifest.drift
    assert drift.n == len(run.data.validation) == sum(drift.predicted.values())
    assert sum(drift.brightness.counts) == drift.n


def test_the_training_list_knows_training_images_and_no_others(run, bundle):
    packed = bundle.read("training_digests.bin")
    assert leaked(run.data.test, packed) == []
    assert len(leaked(run.data.train, packed)) == len(run.data.train)
    assert len(leaked(run.data.validation, packed)) == len(run.data.validation)


def test_the_checkpoint_starts_the_same_network(run, bundle):
    state = torch.load(bundle.path / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(tensor, run.model.state_dict()[name]) for name, tensor in state.items())


def test_the_activation_maps_average_to_the_logits(run, bundle):
    rows = np.stack([preprocess(run.data.test.encoded(i), run.preprocessing).pixels for i in range(5)])
    maps = session.run(session.open_session(bundle.read("explain.onnx")), rows)["cam"]
    logits = session.run(session.open_session(bundle.read("model.onnx")), rows)["logits"]
    np.testing.assert_allclose(maps.mean(axis=(2, 3)) + run.model.head.bias.detach().numpy(), logits, atol=1e-4)


@pytest.fixture(scope="module")
def mirrored(tiny_run, tmp_path_factory):
    store = tmp_path_factory.mktemp("mirrored")
    assert main(["export", str(tiny_run), "--mirror", "--store", str(store)]) == 0
    return Store(store).open("digits", 1)


def test_a_run_can_be_sealed_to_answer_for_mirror_images_too(run, bundle, mirrored):
    """The graph, its measured accuracy, its maps and what a retrain will do all say so."""
    rows = np.stack([preprocess(run.data.test.encoded(i), run.preprocessing).pixels for i in range(20)])
    turned = np.ascontiguousarray(rows[:, :, ::-1])
    plain, both = (session.open_session(b.read("model.onnx")) for b in (bundle, mirrored))
    expected = (session.run(plain, rows)["logits"] + session.run(plain, turned)["logits"]) / 2
    np.testing.assert_allclose(session.run(both, rows)["logits"], expected, atol=1e-4)
    maps = session.open_session(mirrored.read("explain.onnx"))
    np.testing.assert_allclose(
        session.run(maps, rows)["cam"], session.run(maps, turned)["cam"][:, :, :, ::-1], atol=1e-4
    )
    assert mirrored.manifest.lineage.recipe["model"]["mirror"] is True
    assert bundle.manifest.lineage.recipe["model"]["mirror"] is False
    assert mirrored.manifest.graph.parameters == bundle.manifest.graph.parameters
    assert any("resnet8 with mirror images" in line for line in inspection(mirrored))
    page = mirrored.read("report/report.html").decode()
    assert "resnet8 with mirror images" in page and "export RUN --mirror" in page and "the image alone" in page
    assert "mirror" not in re.sub(r"model.mirror</td><td>false", "", bundle.read("report/report.html").decode())


def test_evaluate_says_beforehand_what_mirror_images_would_bring(tiny_run, mirrored, capsys):
    assert main(["evaluate", str(tiny_run), "--mirror"]) == 0
    out = capsys.readouterr().out
    assert f"top-1 {mirrored.manifest.metrics.top1:.4f}" in out and "(resnet8 with mirror images) on" in out
    assert main(["evaluate", str(mirrored.path), "--mirror"]) == 2
    assert "is sealed; --mirror is for runs" in capsys.readouterr().err


def test_the_report_travels_with_the_bundle_and_holds_the_exports_proof(bundle):
    manifest = bundle.manifest
    page = html.unescape(bundle.read("report/report.html").decode())
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for row in (
        f"a logit from PyTorch's {manifest.parity.max_logit_difference:.2g} {manifest.parity.tolerance:g}",
        f"a probability with the size of its batch {manifest.parity.batch_invariance:.2g}",
        f"{manifest.parity.nodes_by_provider['cpu']['CPUExecutionProvider']} nodes ran on CPUExecutionProvider",
        f"top-1, 95 % {100 * manifest.metrics.top1_interval[0]:.2f}",
        f"from {manifest.metrics.ece_uncalibrated:.4f} to {manifest.metrics.ece:.4f}",
        f"The {manifest.drift.n} validation images",
        manifest.variants["int8"].machine,
    ):
        assert row in text
    for name, variant in manifest.variants.items():
        if name != "fp32":
            low, high = (100 * bound for bound in variant.accuracy.difference_interval)
            assert f"{100 * variant.accuracy.difference:+.2f} {low:+.2f} to {high:+.2f}" in text
        assert f"{manifest.files[variant.file].bytes / 1e6:.2f} MB" in text
        assert f"{variant.latency_ms['cpu']['1']:.2f}" in text
    pictures = re.findall(r'<img src="data:image/svg[^"]*" alt="(\w+)', page)
    assert pictures == [
        *("Loss", "Accuracy", "Confusion", "Reliability", "Uncalibrated", "Calibrated", "Histograms"),
    ]
    assert "Worst errors" in text and "/tmp" not in text
    assert not re.search(r"<script|<link|@import|url\(", page)


def no_machine_paths(values):
    text = json.dumps(values)
    return "/home" not in text and "/work" not in text and "/tmp" not in text


def test_nothing_in_the_bundle_names_the_machine_it_was_made_on(run, bundle):
    assert no_machine_paths(json.loads((bundle.path / "bundle.json").read_text()))
    for file in ("model.onnx", "model.int8.onnx", "model.fp16.onnx", "explain.onnx"):
        raw = bundle.read(file)
        assert b".py" not in raw, f"{file} holds source lines"


def perturbed(core):
    weights = next(t for t in core.graph.initializer if len(t.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    return core


def frozen(core):
    core.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return core


@pytest.mark.parametrize(
    ("damage", "said"), [(perturbed, "a logit differs by"), (frozen, "must take any")], ids=["weights", "batch of 1"]
)
def test_a_mismatch_stops_the_export_and_leaves_nothing(run, core, tmp_path, monkeypatch, capsys, damage, said):
    monkeypatch.setattr(export_module, "export_core", handing_out(core, damage))
    assert main(["export", str(run.path), "--store", str(tmp_path / "store")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_variant_outside_its_budget_is_dropped_and_the_bundle_says_why(run, core, monkeypatch, tmp_path):
    import training.selection as selection

    def broken(*args):
        raw = make(*args)
        model = onnx.load_from_string(raw)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT16 and len(tensor.dims) == 4:
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        return model.SerializeToString()

    make = selection.make_fp16
    monkeypatch.setattr(export_module, "export_core", handing_out(core))
    monkeypatch.setattr(selection, "make_fp16", broken)
    exported = export_module.export(run)
    bundle = exported.draft.publish(Store(tmp_path))
    assert "fp16" not in bundle.manifest.variants
    dropped = bundle.manifest.dropped["fp16"]
    assert dropped.accuracy.difference < -BUDGET
    assert f"fp16 was dropped: {dropped.reason}" in bundle.read("report/report.html").decode()
    assert f"dropped: {dropped.reason}" in "\n".join(inspection(bundle))
    assert "the budget is 0.03" in exported.draft.dropped["fp16"].reason
