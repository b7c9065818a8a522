"""Every kind of pixel is read by a declared rule: one hand-computed pixel for each row of the table in docs/api.md."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from bundle.errors import ImageUnsupportedMode
from bundle.preprocess import preprocess
from tests.images import encode, png, recipe, solid

WHITE, BLUE = (255, 255, 255), (0, 0, 255)


def palette_png(transparent: bool) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return encode(image, "PNG", **({"transparency": b"\xff\x80"} if transparent else {}))


def sixteen_bit_color() -> bytes:
    return png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 0x12FF, 0x8000, 0xFFFF))


def sixteen_bit_clear() -> bytes:
    return png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 0x1234, 0xFF00), (b"tRNS", struct.pack(">H", 0x1234)))


# row of the table: (file, background, rgb pixel, grey pixel)
# grey = (19595 R + 38470 G + 7471 B + 32768) >> 16; flattening = (alpha x + (255 - alpha) background) / 255, rounded
CASES = {
    "RGB": (lambda: encode(solid("RGB", (200, 100, 50)), "PNG"), WHITE, (200, 100, 50), 124),
    "grey": (lambda: encode(solid("L", 77), "PNG"), WHITE, (77, 77, 77), 77),
    "1-bit": (lambda: encode(solid("1", 1), "PNG"), WHITE, (255, 255, 255), 255),
    "palette": (lambda: palette_png(False), WHITE, (200, 100, 50), 124),
    # alpha 128: (128 * 200 + 127 * 255) / 255 = 227.4, (128 * 100 + 127 * 255) / 255 = 177.2, 152.1
    "palette with transparency": (lambda: palette_png(True), WHITE, (227, 177, 152), 189),
    # (64 * 255 + 191 * 0) / 255 = 64; 0; (64 * 0 + 191 * 255) / 255 = 191
    "RGB with alpha": (lambda: encode(solid("RGBA", (255, 0, 0, 64)), "PNG"), BLUE, (64, 0, 191), 41),
    "grey with alpha": (lambda: encode(solid("LA", (0, 128)), "PNG"), WHITE, (127, 127, 127), 127),
    "RGB with a transparent color": (
        lambda: encode(solid("RGB", (9, 9, 9)), "PNG", transparency=(9, 9, 9)),
        BLUE,
        BLUE,
        29,
    ),
    # the high byte: 0x80 = 128
    "16-bit grey": (lambda: encode(solid("I;16", 0x80FF), "PNG"), WHITE, (128, 128, 128), 128),
    "16-bit grey with a transparent value": (sixteen_bit_clear, BLUE, BLUE, 29),
    # the high bytes: 0x12 = 18, 0x80 = 128, 0xff = 255
    "16-bit RGB": (sixteen_bit_color, WHITE, (18, 128, 255), 110),
    # (255 - C)(255 - K) / 255 = 255 * 155 / 255, 155 * 155 / 255 = 94.2, 55 * 155 / 255 = 33.4
    "CMYK": (lambda: encode(solid("CMYK", (0, 100, 200, 100)), "TIFF"), WHITE, (155, 94, 33), 105),
    # R = Y + 1.402 (Cr - 128) = 128.04, G = Y - 0.34414 (Cb - 128) - 0.71414 (Cr - 128) = 78.83,
    # B = Y + 1.772 (Cb - 128) = 135.44; each cut to a whole number
    "YCbCr": (
        lambda: encode(solid("YCbCr", (100, 148, 148)), "TIFF", compression=None),
        WHITE,
        (128, 78, 135),
        100,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mode_is_read_by_its_rule(case: str) -> None:
    make, background, rgb, grey = CASES[case]
    data = make()
    color = preprocess(data, recipe(alpha_background=background)).pixels
    assert tuple(int(v) for v in color[0, 0]) == rgb
    assert int(preprocess(data, recipe(alpha_background=background, color="grey")).pixels[0, 0, 0]) == grey


@pytest.mark.parametrize(
    ("case", "note"),
    [
        ("16-bit grey", "16-bit reduced to 8-bit"),
        ("16-bit RGB", "16-bit reduced to 8-bit"),
        ("CMYK", "CMYK converted to RGB without a color profile"),
        ("RGB with alpha", "transparency flattened on rgb(255, 255, 255)"),
        ("palette with transparency", "transparency flattened on rgb(255, 255, 255)"),
    ],
)
def test_what_was_lost_is_noted(case: str, note: str) -> None:
    assert preprocess(CASES[case][0](), recipe()).info.notes == [note]


def test_an_opaque_alpha_channel_is_dropped_without_a_note() -> None:
    prepared = preprocess(encode(solid("RGBA", (1, 2, 3, 255)), "PNG"), recipe())
    assert prepared.pixels[0, 0].tolist() == [1, 2, 3]
    assert prepared.info.notes == []


@pytest.mark.parametrize("quality", [75, 95])
def test_cmyk_and_ycck_jpegs_are_not_inverted(quality: int) -> None:
    """Adobe's CMYK JPEGs are stored inverted; a pure cyan must come out cyan."""
    pixels = preprocess(encode(solid("CMYK", (255, 0, 0, 0)), "JPEG", quality=quality), recipe()).pixels
    assert abs(pixels[8, 8].astype(int) - (0, 255, 255)).max() <= 6


@pytest.mark.parametrize("mode", ["F", "LAB"])
def test_a_mode_without_a_rule_is_refused_by_name(mode: str) -> None:
    image = solid(mode, 0.5) if mode == "F" else solid("LAB", (1, 2, 3))
    with pytest.raises(ImageUnsupportedMode, match=f"mode {mode} "):
        preprocess(encode(image, "TIFF"), recipe())


def test_samples_wider_than_16_bits_are_refused() -> None:
    with pytest.raises(ImageUnsupportedMode, match="wider than 16 bits"):
        preprocess(encode(solid("I", 70_000), "TIFF"), recipe())
