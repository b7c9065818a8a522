"""Everything that can be wrong with a bundle or an image, as one tree of exceptions."""

from __future__ import annotations


class ClearsightError(Exception):
    """A fault with a stable `code` and a sentence that is safe to show to a caller."""

    code = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BundleError(ClearsightError):
    """A bundle that must not be used; the detail names the file or key and what was expected."""

    code = "bundle.invalid"


class BundleMissing(BundleError):
    """No such model, version or channel in the store."""

    code = "bundle.missing"


class BundleConflict(BundleError):
    """Another process holds the store, or the state changed since it was read."""

    code = "bundle.conflict"


class ImageError(ClearsightError):
    """Bytes that cannot be read as an image under the limits in force."""

    code = "image.undecodable"


class ImageEmpty(ImageError):
    """No bytes at all."""

    code = "image.empty"


class ImageTooLarge(ImageError):
    """More bytes than the limit."""

    code = "image.too_large"


class ImageTooManyPixels(ImageError):
    """More pixels than the limit, judged from the header before anything is decoded."""

    code = "image.too_many_pixels"


class ImageTruncated(ImageError):
    """The file ends before its image does."""

    code = "image.truncated"


class ImageUnsupportedFormat(ImageError):
    """Not one of the formats that are read."""

    code = "image.unsupported_format"


class ImageUnsupportedMode(ImageError):
    """A known format with pixels of a kind that has no declared conversion."""

    code = "image.unsupported_mode"


class ImageTooComplex(ImageError):
    """A small file that would take a great deal of work: a JPEG with very many scans."""

    code = "image.too_complex"


class ImageTooSlow(ImageError):
    """Decoding took longer than the limit."""

    code = "image.too_slow"


class ImageSizeMismatch(ImageError):
    """Smaller than the crop of a model that does not resize."""

    code = "image.size_mismatch"
