"""gunicorn's configuration, made from the service's settings. `python -m service serve` runs gunicorn with it."""

import os
import sys

from service.logs import configure_logs
from service.settings import read_settings

settings = read_settings()
configure_logs(settings)

wsgi_app = "service.wsgi:build()"
bind = f"{settings.host}:{settings.port}"
workers = settings.workers
worker_class = "gthread"
threads = settings.threads
worker_connections = settings.connections
keepalive = max(1, int(settings.keepalive_s))
timeout = max(30, int(settings.batch_limit_s))
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
    host = "localhost" if settings.host in ("0.0.0.0", "127.0.0.1") else settings.host  # noqa: S104
    scheme = "https" if certfile else "http"
    url = f"{scheme}://{host}:{settings.port}"
    sys.stderr.write(f"\nClearsight listens on {url}\n  curl -F image=@photo.jpg {url}/predict\n\n")
