"""A small typed client: one pool of connections, deadlines, retries that honour Retry-After, many images at once."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from service.schema import Prediction1, Predictions, Problem

Image = bytes | Path
"""An encoded image, or the file that holds it."""
_RETRIED = (429, 502, 503)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0


class ClientError(Exception):
    """No answer: `code` is the service's own (see the error table), or one of `client.*`; `status` is 0 for those."""

    def __init__(self, code: str, detail: str, status: int = 0) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of several images: an answer, or the error in its place."""

    image: Image
    answer: Prediction1 | None
    error: ClientError | None


class Client:
    """Talks to one service. Safe to share between threads; close it, or use it with `with`.

    `deadline_s` bounds each call with all its retries, and the service is told what is left of it.
    """

    def __init__(self, url: str, *, key: str | None = None, deadline_s: float = 30.0, connections: int = 8) -> None:
        self.url = url.rstrip("/")
        self.deadline_s = deadline_s
        self.connections = connections
        self._headers = {"X-API-Key": key} if key else {}
        self._pool = urllib3.PoolManager(maxsize=connections, block=True)
        self._closed = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a call that waits to retry gives up."""
        self._closed.set()
        self._pool.clear()

    def predict(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        embedding: bool = False,
    ) -> Prediction1:
        """Classify one image. Raises `ClientError`."""
        query = _query(model=model, version=version, top_k=top_k, threshold=threshold, embedding=embedding or None)
        body = self._request("POST", f"/predict{query}", _bytes_of(image), "application/octet-stream")
        return Prediction1.model_validate_json(body)

    def predict_together(
        self, images: list[Image], *, model: str | None = None, top_k: int | None = None
    ) -> Predictions:
        """Classify several images in one request: a result or an error for each. Raises `ClientError`."""
        parts = [("image", (f"{i}", _bytes_of(image), "application/octet-stream")) for i, image in enumerate(images)]
        query = _query(model=model, top_k=top_k)
        if len(parts) == 1:  # answered as one image; given the shape of several
            one = self.predict(images[0], model=model, top_k=top_k).model_dump()
            shared = {key: one.pop(key) for key in ("request_id", "model")}
            return Predictions.model_validate({**shared, "results": [one]})
        body, kind = urllib3.encode_multipart_formdata(parts)
        return Predictions.model_validate_json(self._request("POST", f"/predict{query}", body, kind))

    def predict_many(self, images: Iterable[Image], **options: Any) -> Iterator[Outcome]:
        """Classify any number of images, each in a request of its own, over all connections; in their order."""

        def one(image: Image) -> Outcome:
            try:
                return Outcome(image, self.predict(image, **options), None)
            except ClientError as error:
                return Outcome(image, None, error)

        with ThreadPoolExecutor(self.connections) as threads:
            yield from threads.map(one, images)

    def get(self, path: str) -> Any:
        """Return the JSON document at a path, such as `/models`. Raises `ClientError`."""
        return json.loads(self._request("GET", path, None, None))

    def _request(self, method: str, path: str, body: bytes | None, kind: str | None) -> bytes:
        ends = time.monotonic() + self.deadline_s
        pause_s = _FIRST_PAUSE_S
        while True:
            response, failure = self._attempt(method, path, body, kind, ends)
            if response is not None and response.status < 300:
                return response.data
            if response is not None:
                failure = _failure_of(response)
                if response.status not in _RETRIED:
                    raise failure
            assert failure is not None
            told = response.headers.get("Retry-After", "") if response is not None else ""
            wait_s = float(told) if told.isdecimal() else pause_s
            if time.monotonic() + wait_s > ends:
                raise failure
            if self._closed.wait(wait_s):
                raise ClientError("client.closed", "The client was closed.")
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _attempt(
        self, method: str, path: str, body: bytes | None, kind: str | None, ends: float
    ) -> tuple[urllib3.BaseHTTPResponse | None, ClientError | None]:
        left_s = max(0.001, ends - time.monotonic())
        headers = {**self._headers, "X-Request-Deadline-Ms": str(math.ceil(left_s * 1000))}
        if kind:
            headers["Content-Type"] = kind
        try:
            response = self._pool.request(
                method, self.url + path, body=body, headers=headers, timeout=left_s, retries=False
            )
            return response, None
        except urllib3.exceptions.HTTPError as error:
            refused = isinstance(error, urllib3.exceptions.NewConnectionError)
            if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
                raise ClientError("client.deadline", f"No answer within {self.deadline_s:g} s.") from None
            return None, ClientError("client.unreachable", f"{self.url} cannot be reached: {type(error).__name__}.")


def _failure_of(response: urllib3.BaseHTTPResponse) -> ClientError:
    try:
        problem = Problem.model_validate_json(response.data)
    except ValueError:
        return ClientError(
            "client.not_clearsight", f"The answer {response.status} is not of this service.", response.status
        )
    return ClientError(problem.code, problem.detail, response.status)


def _bytes_of(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise ClientError("client.unreadable", f"{image}: {error.strerror}.") from None


def _query(**parameters: object) -> str:
    given = {
        name: str(value).lower() if value is True else value for name, value in parameters.items() if value is not None
    }
    return f"?{urlencode(given)}" if given else ""
