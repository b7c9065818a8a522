"""`python -m tests.e2e.overload SECONDS [CASE]`: four times the capacity, open loop, 128 connections, tight bounds.

Cases: a stand-in accelerator of 100 images a second behind one worker and behind two, and a ResNet-50 (fp32, and int8).
For a machine with nothing else to do; `make test` has a short form with wide bounds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.e2e.openloop import Judge, Load, offer
from tests.e2e.running import Running, service
from tests.e2e.traffic import Sample, check, make_samples
from tests.factory import publish_colors

STANDIN = Path(__file__).parent / "standin"
DEADLINE_S = 1.0
LEAST_GOODPUT = 0.95
SLOWEST_PROBE_S = 1.0
CASES = ("standin", "standin-shared", "resnet50", "resnet50-int8")


def top_label(sample: Sample, body: bytes) -> tuple[str, str]:
    """Compare the first label, for a model whose references are labels."""
    found = json.loads(body)["predictions"][0]["index"]
    return "1", "" if [found] == sample.expected["1"] else f"{found} instead of {sample.expected['1']}"


def photographs(running: Running) -> list[Sample]:
    """Cut different JPEGs of 500x375 out of two photographs; what the idle service says of each is its reference."""
    import io

    from PIL import Image
    from sklearn.datasets import load_sample_images

    samples = []
    for picture in load_sample_images().images:
        for left in range(0, 140, 20):
            stream = io.BytesIO()
            Image.fromarray(picture[left : left + 280, left : left + 373]).resize((500, 375)).save(stream, "JPEG")
            load = offer(running.port, [Sample(stream.getvalue(), {})], 1000, 0.001, 1, _remember(samples))
            assert load.statuses[200] >= 1
    return samples


def _remember(samples: list[Sample]) -> Judge:
    def judge(sample: Sample, body: bytes) -> tuple[str, str]:
        samples.append(Sample(sample.data, {"1": [json.loads(body)["predictions"][0]["index"]]}))
        return "1", ""

    return judge


def judge_load(peak: Load, load: Load) -> list[str]:
    """List what an overloaded service did wrong."""
    share, p99_s = load.goodput / peak.goodput, load.quantile(0.99)
    expired = load.statuses[504] / (load.statuses[200] + load.statuses[504])
    checks = {
        f"goodput is {share:.2f} of the peak": share >= LEAST_GOODPUT,
        f"p99 is {p99_s:.2f} s": p99_s <= DEADLINE_S,
        f"a probe took {load.slowest_probe_s:.2f} s": load.slowest_probe_s <= SLOWEST_PROBE_S,
        f"{expired:.3f} of the admitted expired": expired <= 0.01,
        f"statuses {dict(load.statuses)}": set(load.statuses) <= {200, 503, 504},
        f"{len(load.wrong)} wrong answers": not load.wrong,
        f"{load.unanswered} requests without an answer": not load.unanswered,
    }
    return [text for text, met in checks.items() if not met]


def overload(case: str, seconds: float) -> list[str]:
    """Run one case, print its figures and return its faults."""
    with tempfile.TemporaryDirectory(prefix="overload-") as name:
        folder = Path(name)
        if case.startswith("standin"):
            publish_colors(folder / "store")
            store, judge = folder / "store", check
            settings: dict[str, object] = {"runners": 1, "max_batch": 4, "workers": 2 if "shared" in case else 1}
        else:
            from bench import models

            models.build()
            store, judge = models.BUILT, top_label
            settings = {"variant": "int8" if "int8" in case else "fp32", "default_model": "resnet50", "warmup_s": 3}
        extra = STANDIN if case.startswith("standin") else None
        with service(store, folder, extra, deadline_ms=1000 * DEADLINE_S, **settings) as running:
            samples = make_samples(store) if extra else photographs(running)
            capacity = json.loads(running.get("/batching")[1])["capacity_images_per_second"]
            peak = offer(running.port, samples, 1.5 * capacity, 10, 24, judge)
            before = running.settled()
            load = offer(running.port, samples, 4 * peak.goodput, seconds, judge=judge)
            counted = running.settled() - before
    faults = judge_load(peak, load)
    if counted != load.statuses.total():
        faults.append(f"{counted:.0f} answers counted of {load.statuses.total()}")
    print(  # noqa: T201
        f"{case}: peak {peak.goodput:.1f}/s; offered {4 * peak.goodput:.0f}/s for {seconds:.0f} s: "
        f"{load.goodput:.1f}/s ({load.goodput / peak.goodput:.2f} of the peak), p50 {load.quantile(0.5):.3f} s, "
        f"p99 {load.quantile(0.99):.3f} s, slowest probe {load.slowest_probe_s:.3f} s, {dict(load.statuses)}; "
        f"{'; '.join(faults) or 'all bounds met'}",
        flush=True,
    )
    return faults


def main(seconds: float, cases: tuple[str, ...]) -> int:
    """Return 1 when a case missed a bound."""
    return 1 if [fault for case in cases for fault in overload(case, seconds)] else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, tuple(sys.argv[2:]) or CASES))
