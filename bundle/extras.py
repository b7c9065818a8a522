"""A sentence instead of a traceback where a part of the distribution is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_OURS = {"bundle", "service", "training", "bench"}


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import within this what the extra of that name brings; end the process with one sentence where it is missing.

    Raises:
        SystemExit: A library is not installed; the message names it and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise  # a mistake of ours, which no extra mends
        raise SystemExit(
            f'error: {error.name} is not installed; the extra "{name}" brings it: '
            f"in the clone, pip install --constraint constraints.txt --editable '.[{name}]'"
        ) from None
