"""What the fuzzer sends where the description leaves it free: names that exist, patience, and images."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.factory import COLORS, color_image
from tests.images import encode, photo

PATIENCE_MS = 5000
IMAGES = [
    *(color_image(color, (20, 30), format=kind) for color in COLORS for kind in ("PNG", "JPEG")),
    *(encode(photo(24, 16), kind) for kind in ("WEBP", "GIF", "BMP", "TIFF")),
]
damaged = st.builds(
    lambda data, at, patch: data[: at % len(data)] + patch + data[at % len(data) + len(patch) :],
    st.sampled_from(IMAGES),
    st.integers(0, 4000),
    st.binary(max_size=8),
)
schemathesis.openapi.format("binary", st.sampled_from(IMAGES) | damaged | st.binary(max_size=200))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Give most requests a model that is there, and every deadline the time that a busy machine takes.

    Only a value that its description allows is changed, and into another that it allows, so what is to be accepted
    and what is to be refused stays so. One name in four is left as it is: nobody has it.
    """
    for name, known in (("model", model_of(case)), ("name", "colors"), ("version", 2)):
        for place in (case.path_parameters, case.query):
            if place and name in place and is_free(name, place[name]):
                place[name] = known
    given = (case.headers or {}).get("X-Request-Deadline-Ms")
    if is_short(given):
        case.headers["X-Request-Deadline-Ms"] = str(PATIENCE_MS)


def model_of(case: Any) -> str:
    """Loading and unloading is tried on a model of its own, lest the others have none."""
    return "shades" if "repository" in case.operation.path else "colors"


def is_free(name: str, value: object) -> bool:
    """Whether any other value of the description would do as well, and this one is not among the unknown quarter."""
    if name == "version":
        return str(value).isdecimal() and 1 <= int(str(value)) <= 99_999
    return value == "shades" or (isinstance(value, str) and value.isprintable() and sum(value.encode()) % 4 != 0)


def is_short(given: object) -> bool:
    """Whether a deadline is as described and shorter than a busy machine may take."""
    try:
        return 0 < float(str(given)) < PATIENCE_MS
    except ValueError:
        return False
