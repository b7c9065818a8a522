"""A plain Flask app under gunicorn: one session in each worker, no batching.

Tuned for this work: one worker a core, one onnxruntime thread each (more threads fight over the cores), threads
for keep-alive connections. `gunicorn --workers 2 --worker-class gthread --threads 4 'bench.peers.naive:create_app()'`
"""

from __future__ import annotations

from flask import Flask, Response, request

from bench.peers.work import Work


def create_app() -> Flask:
    """Build the app; the session is made in the worker, after the fork."""
    app = Flask(__name__)
    work = Work()

    @app.post("/predict")
    def predict() -> Response:
        prepared = work.read(request.get_data())
        return app.json.response(work.reply(work.infer(prepared.pixels[None])[0], prepared.info))

    return app
