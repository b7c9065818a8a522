"""The precision that serves is the one that the bundle measured best for the device; one that fails its golden
images gives way to fp32 and says so, and a failing fp32 is refused."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from flask.testing import FlaskClient

from bundle.draft import SealedVariant
from bundle.front import Front
from bundle.graph import seal
from bundle.manifest import Accuracy, Manifest, Provider, VariantName
from bundle.stamp import Stamp
from bundle.store import Store, fact_of
from service.engine.devices import CPU, Device
from service.engine.loading import Threading, prepare_best
from service.engine.plan import Curve
from service.engine.variants import rank_variants, unmeasured
from service.settings import Settings
from tests.factory import COLORS, color_core, color_draft, color_image

Latency = dict[Provider, dict[str, float]]
MEASURED: dict[VariantName, Latency] = {
    "fp32": {"cpu": {"1": 4.0, "8": 24.0}, "cuda": {"1": 2.0, "8": 4.0}},
    "int8": {"cpu": {"1": 2.0, "8": 12.0}, "cuda": {"1": 0.1, "8": 0.2}},
    "fp16": {"cpu": {"1": 8.0, "8": 48.0}, "cuda": {"1": 1.0, "8": 2.0}},
}


def accuracy(difference: float) -> Accuracy:
    return Accuracy(n=1000, top1=0.9, difference=difference, difference_interval=(-0.1, 0.1), agreement=0.99)


def sealed(variant: VariantName, gain: float = 4.001) -> bytes:
    front = Front("NCHW", "RGB", 255.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    roles = {"logits": "logits", "embedding": "embedding"}
    return bytes(seal(color_core(gain), front, roles, Stamp(COLORS, variant=variant)).SerializeToString())


def publish(root: Path, measured: dict[VariantName, Latency], loss: float = 0.0) -> Store:
    """Publish a bundle that says such latencies of its variants, and that they lose so much accuracy."""
    draft = color_draft()
    for name, latency in measured.items():
        raw = draft.variants["fp32"].raw if name == "fp32" else sealed(name)
        draft.variants[name] = SealedVariant(raw, accuracy(0.0 if name == "fp32" else -loss), latency)
    draft.publish(Store(root))
    Store(root).promote("colors", 1)
    return Store(root)


def spoil(bundle: Path, names: tuple[str, ...]) -> None:
    """Change the weights of variants, and their hashes to fit."""
    values = json.loads((bundle / "bundle.json").read_text())
    for name in names:
        file = values["variants"][name]["file"]
        model = onnx.load_from_string(sealed(name, gain=1.0))  # type: ignore[arg-type]
        (bundle / file).write_bytes(model.SerializeToString())
        fact = fact_of(bundle / file)
        values["files"][file] = {"sha256": fact.sha256, "bytes": fact.bytes}
    (bundle / "bundle.json").write_text(json.dumps(values))


def on(provider: Provider, measured: dict[VariantName, Latency]) -> dict[VariantName, Latency]:
    return {name: {provider: latency[provider]} for name, latency in measured.items()}


CHOICES = {
    "cpu takes the faster int8": ("cpu", MEASURED, 0.0, "auto", ["int8", "fp32"]),
    "cuda takes the faster fp16 and never int8": ("cuda", MEASURED, 0.0, "auto", ["fp16", "fp32"]),
    "int8 is not obeyed on cuda": ("cuda", MEASURED, 0.0, "int8", ["fp32"]),
    "int8 is obeyed on a cpu": ("cpu", MEASURED, 0.0, "int8", ["int8", "fp32"]),
    "what lost too much is left": ("cpu", MEASURED, 0.02, "auto", ["fp32"]),
    "what was not measured on cuda is left": ("cuda", on("cpu", MEASURED), 0.0, "auto", ["fp32"]),
    "what was not measured on a cpu is left": ("cpu", on("cuda", MEASURED), 0.0, "auto", ["fp32"]),
    "fp32 where it was asked for": ("cpu", MEASURED, 0.0, "fp32", ["fp32"]),
}


@pytest.mark.parametrize(("provider", "measured", "loss", "wanted", "tried"), CHOICES.values(), ids=CHOICES.keys())
def test_the_device_gets_what_the_bundle_measured_to_be_best(
    tmp_path: Path,
    provider: str,
    measured: dict[VariantName, Latency],
    loss: float,
    wanted: str,
    tried: list[str],
) -> None:
    manifest: Manifest = publish(tmp_path, measured, loss).open("colors").manifest
    assert rank_variants(manifest, provider, wanted, 0.01) == tried


def test_only_what_is_as_good_and_was_not_measured_on_cuda_is_measured_there(tmp_path: Path) -> None:
    known = publish(tmp_path / "known", MEASURED).open("colors").manifest
    unknown = publish(tmp_path / "unknown", on("cpu", MEASURED)).open("colors").manifest
    worse = publish(tmp_path / "worse", on("cpu", MEASURED), loss=0.02).open("colors").manifest
    assert unmeasured(unknown, "cuda", "auto", 0.01) == ["fp16"]
    assert unmeasured(unknown, "cpu", "auto", 0.01) == unmeasured(unknown, "cuda", "fp32", 0.01) == []
    assert unmeasured(known, "cuda", "auto", 0.01) == unmeasured(worse, "cuda", "auto", 0.01) == []


@pytest.mark.parametrize(
    ("milliseconds", "wrong", "served"),
    [((2.0, 1.0), (), "fp16"), ((1.0, 0.95), (), "fp32"), ((2.0, 1.0), ("fp16",), "fp32")],
    ids=["faster", "hardly faster", "wrong"],
)
def test_a_variant_of_unknown_speed_serves_where_it_is_found_to_be_faster_and_right(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    milliseconds: tuple[float, ...],
    wrong: tuple[str, ...],
    served: str,
) -> None:
    bundle = publish(tmp_path, {"fp32": MEASURED["fp32"], "fp16": {"cpu": {"1": 1.0}}}).open("colors")
    spoil(bundle.path, wrong)
    times = iter(milliseconds)  # fp32 is prepared first
    monkeypatch.setattr("service.engine.loading.measure_curve", lambda *_, **__: Curve({1: next(times) / 1000}))
    pretended = Device("cuda", CPU.requested, pads=True, splits=False)
    settings = Settings(store=tmp_path, default_model="colors", workers=1)
    best = prepare_best(Store(tmp_path).open("colors"), pretended, Threading(2, 1, 2), settings)
    assert (best.variant, "differs by" in best.fallen) == (served, bool(wrong))
    assert best.network.session is not None


@pytest.fixture(params=[("int8",), ("int8", "fp32"), ()], ids=["int8 is wrong", "both are wrong", "none is wrong"])
def wrong(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture
def store(tmp_path: Path, wrong: tuple[str, ...]) -> Path:
    """A bundle whose int8 is the faster one, with weights changed and hashes fitted for the variants in `wrong`."""
    bundle = publish(tmp_path / "store", {"fp32": MEASURED["fp32"], "int8": MEASURED["int8"]}).open("colors")
    spoil(bundle.path, wrong)
    return tmp_path / "store"


def test_a_failing_variant_gives_way_and_says_so_and_a_failing_fp32_is_refused(
    client: FlaskClient, wrong: tuple[str, ...]
) -> None:
    reply = client.post("/predict", data=color_image("red"), content_type="image/png")
    ready = client.get("/readyz")
    [model] = client.get("/models").get_json()["models"]
    if "fp32" in wrong:
        assert reply.status_code == 503 and ready.status_code == 503
        assert model["state"] == "failed"
        for variant in ("int8", "fp32"):
            assert f"colors/1 {variant} on cpu: golden/" in model["reason"]
        assert "differs by 0." in model["reason"]
        assert "fp32 on cpu: golden/" in ready.get_data(as_text=True)
        return
    assert reply.status_code == 200 and ready.status_code == 200
    assert reply.get_json()["predictions"][0]["label"] == "red"
    assert reply.get_json()["model"]["variant"] == ("fp32" if wrong else "int8")
    assert model["state"] == "ready"
    if wrong:
        assert "colors/1 int8 on cpu: golden/" in model["reason"] and "differs by" in model["reason"]
    else:
        assert model["reason"] == ""
