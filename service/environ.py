"""The WSGI environment of one request, without what no route here reads."""

from __future__ import annotations

import sys
from typing import Any

from gunicorn import util

from service.connection import Connection

_FIXED = {
    "wsgi.errors": sys.stderr,
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
    "SCRIPT_NAME": "",
}
_PLAIN = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}


def environ_of(request: Any, conn: Connection) -> dict[str, Any]:
    """Build the environment of a request that gunicorn's parser accepted; repeated fields are joined by commas."""
    server = conn.server if isinstance(conn.server, tuple) else (str(conn.server), 0)
    client = conn.client if isinstance(conn.client, tuple) else ("", 0)
    environ = {
        **_FIXED,
        "wsgi.input": request.body,
        "wsgi.url_scheme": request.scheme,
        "gunicorn.socket": conn.sock,
        "clearsight.refused": conn.refused,
        "REQUEST_METHOD": request.method,
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "SERVER_PROTOCOL": "HTTP/1.1" if request.version[1] else "HTTP/1.0",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "PATH_INFO": util.unquote_to_wsgi_str(request.path),
    }
    for name, value in request.headers:
        key = _PLAIN.get(name) or f"HTTP_{name.replace('-', '_')}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ
