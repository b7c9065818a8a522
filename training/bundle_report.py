"""`report/report.html` of a bundle: the run's page, judged through onnxruntime, with what the export proved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from bundle.draft import TOLERANCE, Draft
from bundle.manifest import Accuracy
from bundle.session import Outputs
from scipy.special import softmax

from training.evaluate import score
from training.plots import as_svg, draw_drift, draw_reliability
from training.proof import PROVIDERS, providers_here
from training.report import report_page
from training.runs import TrainedRun

REPORT_FILE = "report/report.html"


def bundle_report(run: TrainedRun, draft: Draft, outputs: Outputs) -> bytes:
    """Return the page of a drafted bundle; `outputs` are those of its fp32 graph for the run's test split."""
    targets, probabilities = np.array(run.data.test.targets()), outputs["probabilities"]
    uncalibrated = softmax(outputs["logits"], axis=1)
    ece = {
        "before": score(uncalibrated, targets, draft.labels).ece,
        "after": score(probabilities, targets, draft.labels).ece,
    }
    page = report_page(
        "bundle_report.html",
        run.path,
        run.data.test,
        probabilities,
        model=run.recipe.model,
        draft=draft,
        ece=ece,
        uncalibrated=as_svg(draw_reliability(uncalibrated, targets)),
        drift=as_svg(draw_drift(draft.drift)) if draft.drift else None,
        variants=list(_variants(draft)),
        dropped=list(_dropped(draft)),
        latency=_latency(draft),
        unmeasured=[name for name in PROVIDERS if name not in providers_here()],
        tolerance={name: draft.tolerance.get(name, TOLERANCE[name]) for name in draft.variants},
    )
    return page.encode()


def _variants(draft: Draft) -> Iterator[dict[str, Any]]:
    for name, sealed in draft.variants.items():
        yield {
            "name": name,
            **_accuracy(sealed.accuracy),
            "megabytes": len(sealed.raw) / 1e6,
            "float_nodes": sealed.float_nodes,
        }


def _dropped(draft: Draft) -> Iterator[dict[str, Any]]:
    for name, dropped in draft.dropped.items():
        yield {"name": name, "reason": dropped.reason, **_accuracy(dropped.accuracy)}


def _accuracy(accuracy: Accuracy | None) -> dict[str, Any]:
    """Return percentages and points, as the page shows them; None where they were not measured."""
    if accuracy is None:
        return {"top1": None, "difference": None, "interval": None, "agreement": None}
    interval = accuracy.difference_interval
    return {
        "top1": 100 * accuracy.top1,
        "difference": 100 * accuracy.difference,
        "interval": [100 * bound for bound in interval] if interval else None,
        "agreement": 100 * accuracy.agreement,
    }


def _latency(draft: Draft) -> list[dict[str, Any]]:
    """List a row for each provider and batch size: milliseconds by variant."""
    sizes = [(provider, size) for provider, by in draft.variants["fp32"].latency_ms.items() for size in by]
    return [
        {
            "provider": provider,
            "size": size,
            "ms": {name: sealed.latency_ms.get(provider, {}).get(size) for name, sealed in draft.variants.items()},
        }
        for provider, size in sizes
    ]
