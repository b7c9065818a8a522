"""Everything that a request can be refused for, each with its HTTP status and a stable code."""

from __future__ import annotations

from bundle.errors import ClearsightError

IMAGE_STATUSES = {
    "image.empty": 400,
    "image.undecodable": 422,
    "image.truncated": 422,
    "image.unsupported_mode": 422,
    "image.unsupported_format": 415,
    "image.too_large": 413,
    "image.too_many_pixels": 413,
    "image.too_complex": 422,
    "image.too_slow": 422,
    "image.size_mismatch": 422,
}
"""HTTP status of each `bundle.errors.ImageError` code."""


class ServiceError(ClearsightError):
    """A refusal: `status`, `code`, a sentence for the caller and, where waiting helps, `retry_after_s`."""

    status = 500
    code = "internal"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RequestInvalid(ServiceError):
    """A parameter, header or body that does not say what it must."""

    status = 400
    code = "request.invalid"


class BodyTooLarge(ServiceError):
    """More bytes than the limit."""

    status = 413
    code = "request.too_large"


class MediaTypeUnsupported(ServiceError):
    """A body of a type that is not read."""

    status = 415
    code = "request.unsupported_media_type"


class BodyIncomplete(ServiceError):
    """The client stopped sending before its body was complete."""

    status = 400
    code = "request.incomplete"


class RequestTimeout(ServiceError):
    """The client took too long to send its request."""

    status = 408
    code = "request.timeout"


class RequestMalformed(ServiceError):
    """The bytes are not HTTP as it is spoken here; the status may be a more precise one of HTTP."""

    status = 400
    code = "request.malformed"


class ModelUnknown(ServiceError):
    """No model of that name."""

    status = 404
    code = "model.unknown"


class VersionUnknown(ServiceError):
    """The model has no such version, or does not serve it."""

    status = 404
    code = "version.unknown"


class ModelNotReady(ServiceError):
    """The model exists and is not serving (yet)."""

    status = 503
    code = "model.not_ready"


class ModelRetired(ServiceError):
    """The version was swapped out after the request was resolved: resolve again."""

    status = 503
    code = "model.retired"


class Overloaded(ServiceError):
    """Every place for a request in flight is taken."""

    status = 503
    code = "service.overloaded"


class QueueFull(ServiceError):
    """The queue holds as many images as it may."""

    status = 503
    code = "queue.full"


class DeadlineUnreachable(ServiceError):
    """The answer would come after the request's deadline, so it is refused now."""

    status = 503
    code = "deadline.unreachable"


class DeadlineExceeded(ServiceError):
    """The deadline passed before the answer was there."""

    status = 504
    code = "deadline.exceeded"


class EngineUnavailable(ServiceError):
    """The engine is away, being replaced or shutting down; nothing was computed."""

    status = 503
    code = "engine.unavailable"


class InferenceFailed(ServiceError):
    """The network could not be run on this input."""

    status = 500
    code = "inference.failed"


class ClientGone(ServiceError):
    """The client closed its connection before its answer was computed."""

    status = 499
    code = "client.gone"


class DeviceUnavailable(ServiceError):
    """The device that the policy demands does not run the network."""

    status = 503
    code = "device.unavailable"


def status_of(error: ClearsightError) -> int:
    """Return the HTTP status of any error in the tree; 500 for those that are ours."""
    if isinstance(error, ServiceError):
        return error.status
    return IMAGE_STATUSES.get(error.code, 500)


def subclasses(root: type[ServiceError] = ServiceError) -> dict[str, type[ServiceError]]:
    """Return every refusal by its code, so that one that crossed a process can be raised again.

    Of those that share a code, it is the most general one.
    """
    found = {root.code: root}
    for child in root.__subclasses__():
        found = subclasses(child) | found
    return found
