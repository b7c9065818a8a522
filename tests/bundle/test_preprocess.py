"""One preprocessing: formats, orientation, geometry, limits, and what each is reported as."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from PIL import Image

from bundle import errors
from bundle.preprocess import Limits, preprocess
from tests.images import encode, photo, png, quadrants, recipe, scans_bomb, solid, tiled_tiff, with_orientation

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
FAST = recipe(resize="shorter_side", resize_size=(256, 256), crop_size=(224, 224), interpolation="fast_bilinear")
PLAIN = recipe(resize="shorter_side", resize_size=(256, 256), crop_size=(224, 224))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_each_format_is_read_and_named(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    prepared = preprocess(encode(solid("RGB", (200, 100, 48)), image_format, **options), recipe())
    assert prepared.info.format == image_format
    assert prepared.pixels.shape == (16, 16, 3)
    assert abs(prepared.pixels.astype(int) - (200, 100, 48)).max() <= (6 if image_format == "JPEG" else 0)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_read_and_noted(image_format: str) -> None:
    frames = [solid("RGB", c) for c in (RED, GREEN, BLUE)]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    prepared = preprocess(data, recipe())
    assert prepared.pixels[0, 0].tolist() == list(RED)
    assert prepared.info.notes == ["animated: the first frame was read"]


def test_a_file_of_very_many_frames_costs_one() -> None:
    """20,000 frames behind the first are neither counted nor decoded."""
    data = encode(solid("RGB", RED), "GIF", save_all=True, append_images=[solid("RGB", GREEN)])
    second = data.rindex(b"\x21\xf9")
    data = data[:second] + data[second:-1] * 20_000 + data[-1:]
    started = time.process_time()
    assert preprocess(data, recipe()).pixels[0, 0].tolist() == list(RED)
    assert time.process_time() - started < 0.5


# where the red, green and blue quadrants of `quadrants` are displayed: (row, column), 0 or 1
PLACES = {
    1: ((0, 0), (0, 1), (1, 0)),
    2: ((0, 1), (0, 0), (1, 1)),
    3: ((1, 1), (1, 0), (0, 1)),
    4: ((1, 0), (1, 1), (0, 0)),
    5: ((0, 0), (1, 0), (0, 1)),
    6: ((0, 1), (1, 1), (0, 0)),
    7: ((1, 1), (0, 1), (1, 0)),
    8: ((1, 0), (0, 0), (1, 1)),
}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", PLACES)
def test_exif_orientation_is_applied(image_format: str, orientation: int) -> None:
    options = {"quality": 95} if image_format in ("JPEG", "MPO") else {}
    if image_format == "MPO":
        options |= {"save_all": True, "append_images": [quadrants()]}
    data = with_orientation(quadrants().resize((64, 32)), orientation, image_format, **options)
    prepared = preprocess(data, recipe())
    height, width = (64, 32) if orientation >= 5 else (32, 64)
    assert prepared.pixels.shape == (height, width, 3)
    assert (prepared.info.width, prepared.info.height) == (width, height)
    assert (prepared.info.format, prepared.info.orientation) == (image_format, orientation)
    assert prepared.info.notes == []
    for color, (row, column) in zip((RED, GREEN, BLUE), PLACES[orientation], strict=True):
        seen = prepared.pixels[height // 4 + row * height // 2, width // 4 + column * width // 2]
        assert abs(seen.astype(int) - color).max() < 60, color


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_is_ignored_when_the_recipe_says_so(image_format: str, orientation: int) -> None:
    data = with_orientation(quadrants().resize((64, 32)), orientation, image_format)
    prepared = preprocess(data, recipe(orientation="ignore"))
    assert prepared.pixels.shape == (32, 64, 3)
    assert prepared.info.orientation == 1
    assert abs(prepared.pixels[8, 16].astype(int) - RED).max() < 60


def test_draft_sees_the_displayed_size() -> None:
    """A turned JPEG is decoded at a scale that still covers what the resize makes of it as displayed."""
    data = with_orientation(photo(1600, 800), 6, "JPEG", quality=95)
    draft = preprocess(data, recipe(resize="shorter_side", resize_size=(64, 64), crop_size=(56, 56), jpeg_draft=True))
    exact = preprocess(data, recipe(resize="shorter_side", resize_size=(64, 64), crop_size=(56, 56)))
    assert (draft.info.width, draft.info.height) == (800, 1600)
    assert abs(draft.pixels.astype(int) - exact.pixels).mean() < 3


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (300, 257), (1600, 1067), (40, 30), (3, 900)])
def test_resizing_only_the_crop_equals_resize_then_crop(size: tuple[int, int]) -> None:
    image = photo(*size)
    width, height = size
    if width <= height:
        resized = (256, max(256, int(256 * height / width)))
    else:
        resized = (max(256, int(256 * width / height)), 256)
    whole = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - 224) / 2), round((resized[1] - 224) / 2)
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224))).astype(int)
    assert abs(preprocess(encode(image, "PNG"), PLAIN).pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (257, 300), (1067, 1600), (40, 30), (1, 1)])
@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_fast_bilinear_is_pillows_bilinear_within_two_levels(size: tuple[int, int], color: str) -> None:
    data = encode(photo(*size), "PNG")
    slow = preprocess(data, PLAIN.model_copy(update={"color": color})).pixels.astype(int)
    fast = preprocess(data, FAST.model_copy(update={"color": color})).pixels
    assert fast.shape == slow.shape == (224, 224, 3 if color == "rgb" else 1)
    assert fast.flags.c_contiguous
    assert abs(fast - slow).max() <= 2


def test_fast_bilinear_is_antialiased() -> None:
    """One-pixel stripes shrunk eight times become an even grey, not stripes."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    data = encode(Image.fromarray(stripes), "PNG")
    pixels = preprocess(data, recipe(resize="stretch", resize_size=(64, 64), interpolation="fast_bilinear")).pixels
    assert pixels[:, 4:-4].min() >= 125
    assert pixels[:, 4:-4].max() <= 130


def test_every_cpu_computes_the_same_fast_pixels() -> None:
    """The pixels do not depend on AVX2, SSE4.1 or NEON being there: what training saw, any server sees."""
    import cykooz_resizer as fast

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (333, 517, 3), dtype=np.uint8))
    results = []
    here = fast.Resizer().cpu_extensions
    for extensions in {fast.CpuExtensions.none, here}:
        resizer, target = fast.Resizer(), Image.new("RGB", (224, 224))
        resizer.cpu_extensions = extensions
        options = fast.ResizeOptions(
            resize_alg=fast.ResizeAlg.convolution(fast.FilterType.bilinear), crop_box=fast.CropBox(3.3, 7.9, 300, 301.5)
        )
        resizer.resize_pil(image, target, options)
        results.append(np.asarray(target))
    assert here != fast.CpuExtensions.none
    assert all((result == results[0]).all() for result in results)


def test_threads_do_not_disturb_each_other() -> None:
    files = [encode(photo(300 + 17 * i, 280, seed=i), "PNG") for i in range(8)]
    expected = [preprocess(data, FAST).pixels for data in files]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            if not (preprocess(files[i], FAST).pixels == expected[i]).all():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_upscaled_image_says_so() -> None:
    assert preprocess(encode(photo(20, 20), "PNG"), PLAIN).info.notes == ["upscaled from 20x20"]


def test_a_model_that_does_not_resize_names_the_size_it_takes() -> None:
    with pytest.raises(errors.ImageSizeMismatch, match="The image is 20x20; this model takes at least 32x32"):
        preprocess(encode(photo(20, 20), "PNG"), recipe(crop_size=(32, 32)))


JPEG = encode(photo(64, 64), "JPEG")
PNG = encode(photo(64, 64), "PNG")
BAD = {
    "nothing": (b"", errors.ImageEmpty),
    "text": (b"hello, this is no image", errors.ImageUnsupportedFormat),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", errors.ImageUnsupportedFormat),
    "pdf": (b"%PDF-1.7\n", errors.ImageUnsupportedFormat),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], errors.ImageTruncated),
    "JPEG of a few bytes": (JPEG[:10], errors.ImageTruncated),
    "truncated PNG": (PNG[: len(PNG) // 2], errors.ImageTruncated),
    "truncated WebP": (encode(photo(64, 64), "WEBP")[:-40], errors.ImageTruncated),
    "truncated GIF": (encode(photo(64, 64), "GIF")[:-400], errors.ImageTruncated),
    "truncated BMP": (encode(photo(64, 64), "BMP")[:-400], errors.ImageTruncated),
    "damaged PNG": (PNG[:60] + b"\0" * 30 + PNG[90:], errors.ImageError),
    "20,000 x 20,000 PNG": (png(20_000, 20_000, 8, 2, b""), errors.ImageTooManyPixels),
    "8,000 x 8,000 PNG bomb": (png(8_000, 8_000, 8, 0, bytes(8_001 * 8_000)), errors.ImageTooManyPixels),
    "JPEG of 200 scans": (scans_bomb(200), errors.ImageTooComplex),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_typed_error_at_once(case: str) -> None:
    data, kind = BAD[case]
    started = time.process_time()
    with pytest.raises(kind) as caught:
        preprocess(data, recipe())
    assert time.process_time() - started < 0.5
    assert "Error" not in caught.value.detail
    assert caught.value.detail.endswith(".")


def test_more_bytes_than_the_limit_are_refused_with_both_numbers() -> None:
    with pytest.raises(errors.ImageTooLarge, match=rf"is {len(PNG)} bytes; at most 100 are"):
        preprocess(PNG, recipe(), Limits(max_bytes=100))


def test_a_tiny_tiff_with_huge_tiles_is_refused() -> None:
    with pytest.raises(errors.ImageTooManyPixels, match="tiles of 60000x60000"):
        preprocess(tiled_tiff(16, 60_000), recipe())
    assert preprocess(tiled_tiff(16, 16), recipe()).pixels.shape == (16, 16, 3)


def test_decoding_stops_at_its_time_limit() -> None:
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (700, 700, 3), dtype=np.uint8)), "PNG", compress_level=1)
    with pytest.raises(errors.ImageTooSlow, match=r"longer than the 1e-09 s"):
        preprocess(data, recipe(), Limits(max_decode_seconds=1e-9))


def test_a_busy_machine_makes_no_image_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the processor time of the decoding counts, not the time that it waits for a processor."""
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)), "PNG", compress_level=1)
    hours = itertools.count(0, 3600)
    monkeypatch.setattr(time, "monotonic", lambda: next(hours))
    assert preprocess(data, recipe()).pixels.shape == (300, 300, 3)


def test_an_ordinary_progressive_jpeg_is_read() -> None:
    assert preprocess(encode(photo(64, 64), "JPEG", progressive=True), recipe()).pixels.shape == (64, 64, 3)


def test_damaged_exif_does_not_hide_the_pixels() -> None:
    data = encode(photo(32, 32), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    prepared = preprocess(data, recipe())
    assert (prepared.pixels.shape, prepared.info.orientation) == ((32, 32, 3), 1)
