"""What every peer does to one image, so that only the servers differ: same file, same pixels, same reply.

With BENCH_PLAIN in the environment, a 224x224 model is fed as a user without this project would feed it: with Pillow's
own resize of the whole image.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bench.plain import plain_pixels
from bundle.preprocess import InputInfo, Prepared, preprocess
from bundle.store import Store

TOP_K = 5


class Work:
    """The bundle named by BENCH_STORE, BENCH_MODEL and BENCH_VARIANT, and one session with one thread."""

    def __init__(self) -> None:
        bundle = Store(os.environ["BENCH_STORE"]).open(os.environ["BENCH_MODEL"])
        self.manifest = bundle.manifest
        self.variant = os.environ["BENCH_VARIANT"]
        self.plain = bool(os.environ.get("BENCH_PLAIN"))
        self.model = {
            "name": bundle.manifest.name,
            "version": str(bundle.manifest.version),
            "digest": bundle.digest,
            "variant": self.variant,
        }
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        graph = bundle.read(bundle.manifest.variants[self.variant].file)  # type: ignore[index]
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def read(self, body: bytes) -> Prepared:
        """Turn a request's body into the array that enters the graph."""
        if self.plain:
            return Prepared(plain_pixels(body), InputInfo("JPEG", 0, 0, 1))
        return preprocess(body, self.manifest.preprocessing)

    def infer(self, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run uint8 [n, height, width, channels]; return probabilities [n, classes]."""
        probabilities: npt.NDArray[np.float32] = self.session.run(["probabilities"], {"image": rows})[0]
        return probabilities

    def reply(self, probabilities: npt.NDArray[np.float32], info: InputInfo) -> dict[str, Any]:
        """Say what the service's `/predict` says."""
        best = np.argsort(-probabilities, kind="stable")[:TOP_K]
        return {
            "request_id": uuid.uuid4().hex,
            "model": self.model,
            "predictions": [
                {"label": self.manifest.labels[i], "index": int(i), "probability": float(probabilities[i])}
                for i in best
            ],
            "input": {
                "format": info.format,
                "width": info.width,
                "height": info.height,
                "orientation": info.orientation,
                "notes": info.notes,
            },
        }
