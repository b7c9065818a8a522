"""gunicorn's configuration, made from the service's settings. `python -m service serve` runs gunicorn with it."""

import os
import signal
import sys
from pathlib import Path

from service.children import die_with_parent
from service.crowd import CROWD
from service.descriptors import allow_connections
from service.logs import configure_logs
from service.settings import read_settings

PICTURE = Path("docs/images/ship.jpeg")
"""What a newcomer can send: it lies in a checkout, but not in an image."""

settings = read_settings()
configure_logs(settings)

wsgi_app = "service.wsgi:build()"
# The parent owns the port and hands its socket down, so a gunicorn that is replaced loses no connection.
bind = (
    f"fd://{os.environ['CLEARSIGHT_SOCKET']}"
    if "CLEARSIGHT_SOCKET" in os.environ
    else (f"{settings.host}:{settings.port}")
)
workers = settings.workers
worker_class = "service.worker.Worker"
threads = settings.threads
worker_connections = allow_connections(settings.connections)
keepalive = max(1, int(settings.keepalive_s))
# A worker whose main loop says nothing for this long is killed and replaced.
timeout = int(settings.hang_s) + 4
graceful_timeout = int(settings.drain_s)
backlog = 2048
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190
certfile = str(settings.tls_certificate) if settings.tls_certificate else None
keyfile = str(settings.tls_key) if settings.tls_key else None
# Sessions and sockets are made after the fork.
preload_app = False
logger_class = "service.logs.GunicornLogger"
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
control_socket_disable = True


def when_ready(server):
    """Say where the service is and how to try it."""
    host, port = server.LISTENERS[0].sock.getsockname()[:2]
    shown = "localhost" if host in ("0.0.0.0", "127.0.0.1", "::", "::1") else host  # noqa: S104
    url = f"{'https' if certfile else 'http'}://{shown}:{port}"
    picture = PICTURE if PICTURE.exists() else "photo.jpg"
    sys.stderr.write(f"\nClearsight listens on {url}\n  curl -F image=@{picture} {url}/predict\n\n")
    sys.stderr.flush()


def post_fork(server, worker):
    """Let the worker finish its requests when its master dies, and know whether it replaces another worker."""
    die_with_parent(signal.SIGTERM)
    if worker.age > settings.workers or "CLEARSIGHT_REPLACES" in os.environ:
        worker.app.app_uri = "service.wsgi:build(replaces=True)"


def child_exit(server, worker):
    """Let the other workers know that this one accepts nothing any more."""
    CROWD.leave(worker.age)


def worker_exit(server, worker):
    """Bring the engine's process what this worker counted last; an engine in the worker writes its own totals."""
    if getattr(worker, "wsgi", None) is None:
        return
    engine = worker.wsgi.extensions["clearsight"].engine
    if settings.embedded:
        engine.sum_up()
    else:
        engine.link.bring()
