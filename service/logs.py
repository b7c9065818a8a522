"""Logs as one JSON object a line on standard error (or text for a terminal), gunicorn's own lines included."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from gunicorn.glogging import Logger

from service.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Send every logger of the process through one formatter."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    text = settings.log_format == "text"
    renderer: Any = structlog.dev.ConsoleRenderer(colors=False) if text else structlog.processors.JSONRenderer()
    end = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    if not text:
        end.insert(1, structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=end, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


class Sparing:
    """Lets so many lines a second through and counts the others: an overload must not grow by being told of."""

    def __init__(self, lines_per_second: int) -> None:
        self._most = lines_per_second
        self._second = -1
        self._lines = 0
        self._left_out = 0

    def left_out(self, now: float) -> int | None:
        """Return how many lines were left out before this one, or None where it is to be left out itself.

        `now` is in monotonic seconds.
        """
        if int(now) != self._second:
            self._second, self._lines = int(now), 0
        self._lines += 1
        if self._lines > self._most:
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out


class GunicornLogger(Logger):  # type: ignore[misc]
    """Hands gunicorn's lines to the root logger; requests are logged by the application."""

    def setup(self, cfg: Any) -> None:
        """Keep the loggers, without handlers of their own."""
        self.cfg = cfg
        for logger in (self.error_log, self.access_log):
            logger.handlers = []
            logger.propagate = True
        self.error_log.setLevel(logging.getLogger().level)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing: the application's line knows the route and the request id."""

    def reopen_files(self) -> None:
        """Nothing to reopen: logs go to standard error."""
