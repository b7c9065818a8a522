"""The same work under mosec: a Rust front end, Python workers, dynamic batching.

Tuned for this work: decoding and inference share one stage (a second stage costs a pickle and a socket hop for each
image), one process a core with one onnxruntime thread each. `python -m bench.peers.mosec_app --port 8000`
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from mosec import Server, Worker

from bench.peers.work import Work
from bundle.preprocess import Prepared


class Classifier(Worker):  # type: ignore[misc]
    """Decode, infer and render; `forward` sees one image, or a list of them where batching is on."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def deserialize(self, data: bytes) -> Prepared:
        """Read one image."""
        return self.work.read(data)

    def forward(self, data: Any) -> Any:
        """Answer for one image or for each of a list."""
        images: list[Prepared] = data if isinstance(data, list) else [data]
        probabilities = self.work.infer(np.stack([image.pixels for image in images]))
        replies = [self.work.reply(row, image.info) for row, image in zip(probabilities, images, strict=True)]
        return replies if isinstance(data, list) else replies[0]

    def serialize(self, data: Any) -> bytes:
        """Render the reply."""
        return json.dumps(data).encode()


def main() -> None:
    """Serve on the address that mosec's own arguments give."""
    server = Server()
    batch = int(os.environ.get("BENCH_MOSEC_BATCH", "1"))
    server.append_worker(Classifier, num=int(os.environ["BENCH_CORES"]), max_batch_size=batch, max_wait_time=1)
    server.run()


if __name__ == "__main__":
    main()
