"""The engine in both of its places: devices, variants, quota, life cycle and what crosses the sockets."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.store import Store
from service.engine.devices import CPU, Device, choose_device, cuda, preload_cuda, provider_of
from service.engine.engine import Engine, running
from service.engine.loading import Threading, prepare
from service.engine.network import Network, open_session, run_bound
from service.engine.plan import Curve
from service.engine.tuning import machine, read_tuning
from service.engine.variants import rank_variants
from service.errors import (
    DeadlineUnreachable,
    DeviceUnavailable,
    ModelNotReady,
    ModelRetired,
    ModelUnknown,
    RequestInvalid,
    VersionUnknown,
)
from service.ipc.catalog import News
from service.ipc.client import EngineClient
from service.metrics import Metrics
from service.port import EnginePort
from service.quota import available_cores
from service.settings import Settings
from tests.factory import publish_colors

PADDING = Device("cuda", CPU.requested, pads=True, splits=False)
"""What CUDA is to the engine, on a CPU."""


def rows(n: int) -> Any:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), np.uint8)


def soon() -> float:
    return time.monotonic() + 20


@pytest.mark.parametrize("n", [1, 2, 7, 130], ids=["one", "two", "seven", "more-than-a-batch"])
def test_every_row_gets_its_own_answer(port: EnginePort, store: Path, n: int) -> None:
    served = port.resolve(None, None)
    images = rows(n)
    answer = port.infer(served, images, deadline=soon(), outputs=("probabilities", "embedding"))
    bundle = Store(store).open("colors")
    session = open_session(bundle.read("model.onnx"), CPU, 1)
    expected = session.run(["probabilities", "embedding"], {"image": images})
    np.testing.assert_allclose(answer.outputs["probabilities"], expected[0], atol=1e-6)
    np.testing.assert_allclose(answer.outputs["embedding"], expected[1], atol=1e-5)
    assert answer.model is served
    assert set(answer.timings) == {"queue", "assemble", "infer"}


def test_what_cannot_be_run_is_named(port: EnginePort) -> None:
    served = port.resolve("colors", 1)
    with pytest.raises(RequestInvalid, match="uint8"):
        port.infer(served, np.zeros((1, 9, 9, 3), np.uint8), deadline=soon())
    with pytest.raises(RequestInvalid, match="No output 'nothing'"):
        port.infer(served, rows(1), deadline=soon(), outputs=("nothing",))
    with pytest.raises(ModelUnknown, match="colors"):
        port.resolve("nobody", None)
    with pytest.raises(VersionUnknown, match="1"):
        port.resolve("colors", 7)


def test_a_replaced_version_is_retired_and_its_successor_answers(port: EnginePort, store: Path) -> None:
    old = port.resolve(None, None)
    publish_colors(store, gain=2.0)
    port.reload()
    end = time.monotonic() + 10
    while port.resolve(None, None).version == 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert port.infer(port.resolve(None, None), rows(1), deadline=soon()).model.version == 2
    with pytest.raises(ModelRetired):
        port.infer(old, rows(1), deadline=soon())


def test_a_worker_that_missed_the_news_learns_them_from_the_refusal(
    linked: EngineClient, engine: Engine, store: Path
) -> None:
    linked.link._stop.set()
    linked.link._thread.join(5)
    old = linked.resolve(None, None)
    publish_colors(store, gain=2.0)
    engine.reload()
    assert [served.version for served in engine.fleet.lanes] == [2]
    assert linked.resolve(None, None) is old
    with pytest.raises(ModelRetired):
        linked.infer(old, rows(1), deadline=soon())
    assert linked.infer(linked.resolve(None, None), rows(1), deadline=soon()).model.version == 2


def test_a_worker_that_was_refused_refuses_what_comes_until_the_engine_has_room_again(
    linked: EngineClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked.link._stop.set()
    linked.link._thread.join(5)  # the news would say that nothing waits

    def full(*_: object) -> None:
        raise DeadlineUnreachable("The answer would take about 1.4 s.", retry_after_s=0.4)

    monkeypatch.setattr(engine.batcher, "admit", full)
    with pytest.raises(DeadlineUnreachable):
        linked.infer(linked.resolve(None, None), rows(3), deadline=time.monotonic() + 1.0)
    linked.admit(time.monotonic() + 1.0)  # there may be room for one where there is none for three
    with pytest.raises(DeadlineUnreachable):
        linked.infer(linked.resolve(None, None), rows(1), deadline=time.monotonic() + 1.0)
    refused = time.monotonic()
    with pytest.raises(DeadlineUnreachable) as caught:
        linked.admit(refused + 1.0)
    assert 0.2 < (caught.value.retry_after_s or 0.0) <= 0.4
    linked.admit(refused + 2.0)  # there is time enough for this one
    time.sleep(0.45)
    linked.admit(time.monotonic() + 1.0)


def test_an_edition_that_was_overtaken_changes_nothing(linked: EngineClient, engine: Engine, store: Path) -> None:
    linked.link._stop.set()
    linked.link._thread.join(5)
    older = News.decode(linked.link.call("news"))
    publish_colors(store, gain=2.0)
    engine.reload()
    linked.link._hear(News.decode(linked.link.call("news")))
    linked.link._hear(older)
    assert linked.resolve(None, None).version == 2


def test_a_bad_version_leaves_the_old_one_serving(port: EnginePort, store: Path) -> None:
    bad = publish_colors(store, champion=False, gain=3.0)
    (bad.path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelNotReady, match=r"model\.onnx"):
        port.load("colors", bad.manifest.version)
    assert port.resolve(None, None).version == 1
    assert port.infer(port.resolve(None, None), rows(1), deadline=soon()).model.version == 1


def test_a_version_can_be_loaded_beside_the_champion_and_unloaded(port: EnginePort, store: Path) -> None:
    publish_colors(store, champion=False, gain=2.0)
    port.load("colors", 2)
    end = time.monotonic() + 10
    while {s.version: s.state for s in port.models()}.get(2) != "ready":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert port.infer(port.resolve("colors", 2), rows(1), deadline=soon()).model.version == 2
    port.unload("colors", 2)
    end = time.monotonic() + 10
    while {s.version: s.state for s in port.models()}.get(2) != "unloaded":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_batching_explains_itself(port: EnginePort) -> None:
    answer = port.batching(rate=50.0)
    assert answer["cap"] >= 1
    assert answer["curve_ms"]["1"] > 0
    assert answer["predicted_p99_ms"] > 0


def test_cuda_or_nothing_does_not_start_without_cuda(store: Path) -> None:
    bundle = Store(store).open("colors")
    settings = Settings(store=store, device="cuda!")
    model = bundle.read("model.onnx")
    preload_cuda()
    session = open_session(model, cuda(settings), 1)
    if provider_of(session) == "cuda":
        assert choose_device(settings, model)[0].provider == "cuda"
        return
    with pytest.raises(DeviceUnavailable, match="cuda!"):
        choose_device(settings, model)


def test_cuda_preferred_says_what_runs_instead(store: Path) -> None:
    with running(Engine(Settings(store=store, default_model="colors", device="cuda?"), Metrics())) as engine:
        state = engine.state()
        served = engine.resolve(None, None)
    assert state.device == f"cuda? -> {served.provider}"
    assert served.provider == "cuda" or any("CUDA" in problem for problem in state.problems)


@pytest.mark.parametrize("make", [lambda s: CPU, cuda], ids=["cpu", "cuda"])
def test_bound_and_padded_runs_give_the_same_rows(store: Path, make: Any) -> None:
    device = make(Settings(store=store))
    preload_cuda()
    another = partial(open_session, Store(store).open("colors").read("model.onnx"), device, 1)
    session = another()
    network = Network(session, device, None, another if device.pads else None)
    images = rows(5)
    plain = session.run(["probabilities"], {"image": images})[0]
    np.testing.assert_allclose(run_bound(session, images, ["probabilities"])[0], plain, atol=1e-5)
    np.testing.assert_allclose(network.run(images, ["probabilities"])["probabilities"], plain, atol=1e-5)
    assert network.padded_size(5) == (8 if device.pads else 5)
    for n in (1, 4, 5):
        assert network.open_size(n) == (device.pads and n > 1)
        np.testing.assert_allclose(network.run(images[:n], ["probabilities"])["probabilities"], plain[:n], atol=1e-5)


class CountingSession:
    """Remembers how many rows it was given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, outputs: Any, inputs: dict[str, Any]) -> list[Any]:
        self.sizes.append(len(inputs["image"]))
        return [np.zeros((len(inputs["image"]), 1), np.float32) for _ in outputs]


def test_a_session_on_a_device_that_pads_sees_one_batch_size_only() -> None:
    opened = [CountingSession()]

    def another() -> CountingSession:
        opened.append(CountingSession())
        return opened[-1]

    network = Network(opened[0], PADDING, None, another)
    for n in (2, 3, 4, 8, 16):
        network.open_size(n)
    network.keep_sizes(8)
    assert not network.open_size(32)
    for n in (1, 8, 3, 2, 5, 1, 4):
        network.run(np.zeros((n, 1, 1, 3), np.uint8), ["probabilities"])
    assert [set(session.sizes) for session in opened] == [{1}, {2}, {4}, {8}, set()]


@pytest.mark.parametrize("most", [0, 6], ids=["the cap is measured", "the cap is set"])
def test_every_batch_size_up_to_the_cap_has_its_session(
    store: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Also where measuring ended before the cap that was set."""
    monkeypatch.setattr("service.engine.loading.measure_curve", lambda *_, **__: Curve({1: 0.001, 2: 0.0011}))
    settings = Settings(store=store, default_model="colors", workers=1, max_batch=most)
    network, plan = prepare(Store(store).open("colors"), "fp32", PADDING, Threading(2, 1, 2), settings)
    assert (plan.cap, set(network._sized)) == ((6, {1, 2, 4, 8}) if most else (2, {1, 2}))


def test_a_lost_device_is_trouble_that_only_a_new_process_mends(engine: Engine) -> None:
    assert engine.state().live
    assert engine.batcher is not None
    engine.batcher.lost = "cuda runs nothing any more: out of order"
    state = engine.state()
    assert (state.live, state.ready, state.problems[0]) == (False, False, engine.batcher.lost)


@pytest.mark.parametrize("allowed", [False, True])
def test_fp32_multiplies_in_tf32_only_where_it_is_allowed(store: Path, allowed: bool) -> None:
    options = dict(cuda(Settings(store=store, cuda_tf32=allowed)).requested)["CUDAExecutionProvider"]
    assert options["use_tf32"] == str(int(allowed))


def test_what_was_tuned_on_the_cpu_is_not_for_cuda(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({machine("cpu"): {"runners": 3, "threads": 1}}))
    assert read_tuning(path, machine("cpu")) == {"runners": 3, "threads": 1}
    assert read_tuning(path, machine("cuda")) == {}


def test_int8_is_never_tried_on_cuda(store: Path) -> None:
    manifest = Store(store).open("colors").manifest
    for wanted in ("auto", "int8"):
        assert rank_variants(manifest, "cuda", wanted, 0.01) == ["fp32"]


@pytest.mark.parametrize(
    ("files", "cores"),
    [({"cpu.max": "150000 100000"}, 1), ({"cpu.max": "max 100000"}, None), ({}, None)],
    ids=["one-and-a-half", "unlimited", "no-cgroup"],
)
def test_cores_are_what_the_control_group_allows(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    unlimited = available_cores(tmp_path / "none", tmp_path / "none")
    assert available_cores(tmp_path / "cpu.max", tmp_path / "none") == (cores or unlimited)


def test_the_old_control_group_counts_too(tmp_path: Path) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert available_cores(tmp_path / "none", tmp_path) == 1
