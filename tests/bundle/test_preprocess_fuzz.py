"""Hostile bytes: whatever arrives, the answer is an array of the right shape or a typed error, in bounded time."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bundle.errors import ImageError
from bundle.preprocess import Limits, preprocess
from tests.fuzzing import fuzzed
from tests.images import encode, photo, recipe

SEEDS = [
    encode(photo(48, 40), "JPEG"),
    encode(photo(48, 40), "JPEG", progressive=True),
    encode(photo(48, 40), "PNG"),
    encode(photo(48, 40).convert("P"), "PNG", transparency=3),
    encode(photo(48, 40), "WEBP"),
    encode(photo(48, 40), "GIF", save_all=True, append_images=[photo(48, 40, 1)]),
    encode(photo(48, 40), "BMP"),
    encode(photo(48, 40), "TIFF", compression="tiff_lzw"),
    encode(photo(48, 40), "TIFF"),
    encode(photo(48, 40), "MPO", save_all=True, append_images=[photo(48, 40, 1)]),
]
RECIPE = recipe(
    resize="shorter_side", resize_size=(36, 36), crop_size=(32, 32), interpolation="fast_bilinear", jpeg_draft=True
)
LIMITS = Limits(max_bytes=1 << 20, max_pixels=1 << 20)


def check(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        prepared = preprocess(data, RECIPE, LIMITS)
        assert prepared.pixels.shape == (32, 32, 3)
        assert prepared.pixels.dtype == np.uint8
        assert prepared.info.width * prepared.info.height <= LIMITS.max_pixels


@fuzzed(100)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    check(data)


@fuzzed(400)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=6)), max_size=8))
def test_damaged_files(seed: bytes, edits: list[tuple[int, bytes]]) -> None:
    """Real files with bytes overwritten anywhere, the header first of all."""
    data = bytearray(seed)
    for place, patch in edits:
        at = place % len(data)
        data[at : at + len(patch)] = patch
    check(bytes(data))


@fuzzed(200)
@given(st.sampled_from(SEEDS), st.integers(0, 1 << 16), st.binary(max_size=20))
def test_cut_files_with_a_tail(seed: bytes, at: int, tail: bytes) -> None:
    check(seed[: at % len(seed)] + tail)


@fuzzed(150)
@given(
    st.integers(1, 400), st.integers(1, 400), st.integers(1, 64), st.integers(1, 64), st.sampled_from(["rgb", "grey"])
)
def test_every_size_makes_the_shape_that_the_recipe_promises(w: int, h: int, ch: int, cw: int, color: str) -> None:
    made = recipe(
        resize="shorter_side", resize_size=(64, 64), crop_size=(ch, cw), interpolation="fast_bilinear", color=color
    )
    pixels = preprocess(encode(photo(w, h), "BMP"), made).pixels
    assert pixels.shape == (ch, cw, 3 if color == "rgb" else 1)
