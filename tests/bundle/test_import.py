"""Graphs made elsewhere, imported, give for real photographs what their own reference code gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from foreign import (
    BIAS,
    HEAD,
    KERAS,
    LABELS,
    STYLES,
    TORCH,
    encoded,
    file_of,
    network,
    photographs,
    softmax,
    torch_reference,
)
from onnx import TensorProto
from PIL import Image

from bundle import session
from bundle.__main__ import main
from bundle.preprocess import preprocess
from bundle.store import Store
from bundle.verify import verify


def labels_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS))
    return path


def import_file(tmp_path, path, options, *more):
    labels = labels_file(tmp_path)
    store = tmp_path / "store"
    code = main(
        ["--store", str(store), "import", str(path), "--name", "foreign", "--labels", str(labels), *options, *more]
    )
    return code, Store(store)


def answers(store, images):
    bundle = store.open("foreign")
    rows = [preprocess(encoded(image), bundle.manifest.preprocessing).pixels for image in images]
    return session.run(session.open_session(bundle.read("model.onnx")), np.stack(rows))


@pytest.mark.parametrize(("made", "options", "reference"), STYLES.values(), ids=STYLES.keys())
def test_a_photograph_gets_what_its_own_code_gives(tmp_path, made, options, reference):
    path = file_of(tmp_path / "model.onnx", **made)
    code, store = import_file(tmp_path, path, options)
    assert code == 0
    assert verify(store, store.open("foreign"))
    got = answers(store, photographs())["probabilities"]
    expected = np.array([reference(image) for image in photographs()])
    # The project resamples only what the crop keeps, in one step, which may round a pixel to its neighbour.
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).all()


SAME = {
    "fixed batch made open": ({"batch": 4}, "batch"),
    "fixed batch with its size in a Reshape": ({"batch": 4, "reshape_to": [4, 8]}, "batch"),
    "open batch": ({"batch": "N"}, "batch"),
    "open batch with a frozen Reshape": ({"batch": "N", "reshape_to": [1, 8]}, "batch"),
    "weights as inputs": ({"weights_as_inputs": True, "opset": 8}, "batch"),
    "float16": ({"dtype": TensorProto.FLOAT16}, "batch"),
    "opset 9": ({"opset": 9}, "batch"),
    "opset 18": ({"opset": 18}, "batch"),
    "opset 21": ({"opset": 21}, "batch"),
    "an input called image": ({"prefix": "image_of_"}, "batch"),
}


@pytest.mark.parametrize(("made", "batch"), SAME.values(), ids=SAME.keys())
def test_every_form_of_the_file_gives_the_same(tmp_path, made, batch):
    path = file_of(tmp_path / "model.onnx", **made)
    code, store = import_file(tmp_path, path, [*TORCH, "--resize", "shorter:73", "--crop", "64"])
    assert code == 0
    assert store.open("foreign").manifest.input.shape[0] == batch
    expected = np.array([torch_reference(image) for image in photographs()])
    np.testing.assert_allclose(answers(store, photographs())["probabilities"], expected, atol=3e-3)


@pytest.mark.parametrize(("said", "bound"), [(4, 4), ("N", 1)], ids=["said", "unsaid"])
def test_a_graph_that_nothing_can_open_stays_at_its_batch(tmp_path, said, bound):
    path = file_of(tmp_path / "model.onnx", batch=said, reshape_to=[bound, 8], allowzero=True)
    code, store = import_file(tmp_path, path, [*TORCH, "--resize", "shorter:73", "--crop", "64"])
    assert code == 0
    assert store.open("foreign").manifest.fixed_batch == bound
    expected = np.array([torch_reference(image) for image in photographs()])
    np.testing.assert_allclose(answers(store, photographs())["probabilities"], expected, atol=3e-3)


def test_uint8_pixels_enter_as_they_are(tmp_path):
    path = file_of(tmp_path / "model.onnx", dtype=TensorProto.UINT8)
    options = ["--layout", "NCHW", "--color", "RGB", "--output", "logits", "--resize", "stretch:64"]
    assert import_file(tmp_path, path, options)[0] == 0
    image = photographs()[0]
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)[None]
    got = answers(Store(tmp_path / "store"), [image])
    np.testing.assert_allclose(got["logits"], network(pixels), rtol=1e-4)


def test_pixels_are_normalised_in_whole_rows_before_they_are_transposed(tmp_path):
    """Three numbers at a time, and in the other order, an int8 graph took a twentieth longer."""
    path = file_of(tmp_path / "model.onnx")
    assert import_file(tmp_path, path, [*TORCH, "--resize", "shorter:73", "--crop", "64"])[0] == 0
    graph = onnx.load_from_string(Store(tmp_path / "store").open("foreign").read("model.onnx")).graph
    front = [node for node in graph.node if node.name.startswith("seal/")][:5]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert [node.op_type for node in front] == ["Cast", "Div", "Sub", "Div", "Transpose"]
    assert [shapes[node.input[1]] for node in front[1:4]] == [(), (64, 3), (64, 3)]


def test_names_that_clash_with_the_sealed_ones_are_no_trouble(tmp_path):
    path = file_of(tmp_path / "model.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"x": "image", "flat": "probabilities", "scores": "logits"}.get(n, n) for n in names]
    model.graph.input[0].name, model.graph.output[0].name = "image", "logits"
    path.write_bytes(model.SerializeToString())
    code, store = import_file(tmp_path, path, [*TORCH, "--resize", "shorter:73", "--crop", "64"])
    assert code == 0
    expected = np.array([torch_reference(image) for image in photographs()])
    np.testing.assert_allclose(answers(store, photographs())["probabilities"], expected, atol=2e-3)


def test_logits_and_embedding_are_found_behind_a_softmax(tmp_path):
    path = file_of(tmp_path / "model.onnx", layout="NHWC", softmax_inside=True)
    _, store = import_file(tmp_path, path, [*KERAS, "--resize", "stretch:64"])
    outputs = answers(store, photographs())
    np.testing.assert_allclose(softmax(outputs["logits"]), outputs["probabilities"], atol=1e-6)
    np.testing.assert_allclose(outputs["embedding"] @ HEAD + BIAS, outputs["logits"], atol=1e-4)


def write_arrays(path, inputs, outputs):
    np.savez(path, inputs=inputs, outputs=outputs)
    return str(path)


def torch_tensor(image):
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), np.float32) / 255
    pixels = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return pixels.transpose(2, 0, 1)


def test_checks_pass_when_the_description_is_right(tmp_path, capsys):
    path = file_of(tmp_path / "model.onnx")
    image = tmp_path / "china.png"
    image.write_bytes(encoded(photographs()[0]))
    label = LABELS[torch_reference(photographs()[0]).argmax()]
    inputs = np.stack([torch_tensor(image) for image in photographs()])
    arrays = write_arrays(tmp_path / "known.npz", inputs, network(inputs))
    resize = ["--resize", "shorter:73", "--crop", "64"]
    code, store = import_file(tmp_path, path, [*TORCH, *resize], "--check", f"{image}={label}", "--check", arrays)
    assert code == 0
    assert "check known.npz: logits within" in capsys.readouterr().out
    assert [g.file for g in store.open("foreign").manifest.golden.images] == ["golden/00.png"]


WRONG = {
    "check image": (["--check", "{image}=cat"], "the check image should be 'cat'"),
    "check arrays": (["--check", "{wrong_arrays}"], "logits differ by"),
    "check without label": (["--check", "{image}"], "expected IMAGE=LABEL"),
    "layout": (["--layout", "NHWC"], "is the layout right?"),
    "output": (["--output", "probabilities"], "it is logits, not probabilities"),
    "scale": (["--scale", "zero"], "expected a number above 0"),
    "scale for known arrays": (["--scale", "1", "--check", "{arrays}"], "off whole pixel values 0..255"),
    "mean": (["--mean", "1,2"], "--mean holds 2 numbers for 3 channels"),
    "deviation": (["--std", "0"], "--std must not hold 0"),
    "resize": (["--resize", "larger:3"], "expected shorter:256"),
    "size": (["--crop", "32"], "the graph takes 64x64 images but the preprocessing makes (32, 32)"),
    "crop": (["--crop", "99"], "crop_size must not exceed resize_size"),
    "output name": (["--output-name", "softmax"], "there is no output softmax; outputs are scores"),
    "labels": (["--labels", "{few}"], "there are 2 labels but no output with 2 classes; outputs: scores with 5"),
    "repeated label": (["--labels", "{twice}"], "'a' stands at 0 and 2"),
    "missing labels": (["--labels", "nowhere.txt"], "nowhere.txt does not exist"),
}


@pytest.mark.parametrize(("options", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_description_is_one_clear_sentence_and_publishes_nothing(tmp_path, capsys, options, sentence):
    path = file_of(tmp_path / "model.onnx")
    inputs = np.stack([torch_tensor(image) for image in photographs()])
    places = {
        "image": tmp_path / "china.png",
        "arrays": write_arrays(tmp_path / "known.npz", inputs, network(inputs)),
        "wrong_arrays": write_arrays(tmp_path / "wrong.npz", inputs, network(inputs) + 1),
        "few": tmp_path / "few.txt",
        "twice": tmp_path / "twice.txt",
    }
    places["image"].write_bytes(encoded(photographs()[0]))
    places["few"].write_text("a\nb")
    places["twice"].write_text("a\nb\na\nc\nd")
    given = [option.format(**places) for option in options]
    code, store = import_file(tmp_path, path, [*TORCH, "--resize", "shorter:73", "--crop", "64"], *given)
    assert code == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert store.names() == []


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x08"], ids=["empty", "text", "no graph"])
def test_a_file_that_is_no_graph_is_refused(tmp_path, capsys, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert import_file(tmp_path, path, [*TORCH, "--resize", "stretch:64"])[0] == 1
    assert "model.onnx is not an ONNX file" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "link.bin"], ids=["climbing", "absolute", "link"])
def test_weights_are_read_only_from_plain_files_beside_the_graph(tmp_path, capsys, place):
    path = file_of(tmp_path / "model.onnx")
    (tmp_path / "link.bin").symlink_to("/etc/hostname")
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    path.write_bytes(model.SerializeToString())
    assert import_file(tmp_path, path, [*TORCH, "--resize", "stretch:64"])[0] == 1
    assert "which is not a plain file beside it" in capsys.readouterr().err


def test_weights_beside_the_graph_are_taken_in(tmp_path):
    path = file_of(tmp_path / "model.onnx")
    onnx.save(onnx.load(path), tmp_path / "split.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    code, store = import_file(tmp_path, tmp_path / "split.onnx", [*TORCH, "--resize", "shorter:73", "--crop", "64"])
    assert code == 0
    expected = np.array([torch_reference(image) for image in photographs()])
    np.testing.assert_allclose(answers(store, photographs())["probabilities"], expected, atol=2e-3)
