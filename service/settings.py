"""Every setting of the service: one frozen class, read once from `CLEARSIGHT_…` and checked before anything starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from service.access import parse_keys
from service.quota import available_cores

PREFIX = "CLEARSIGHT_"
EXIT_SETTINGS = 2
"""Exit code of a start that a bad setting stopped."""
EXIT_DEVICE = 3
"""Exit code of a start that `cuda!` stopped."""

_MOST_WORKERS = 8
"""Where nothing is said: so many workers carry several thousand requests a second, and each takes memory."""

Bytes = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0.0, le=86_400.0)]


class Settings(BaseSettings):
    """The service's settings; the field's name in capitals behind `CLEARSIGHT_` is the variable."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 to be reached from outside")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port to listen on")
    store: Path = Field(Path("exported"), description="folder of the bundles: <name>/<version>/")
    default_model: str = Field("cifar10", description="model that answers requests without ?model=")
    models: tuple[str, ...] = Field((), description='JSON list of the models to serve, such as ["digits"]; [] for all')
    device: Literal["cpu", "cuda?", "cuda!"] = Field(
        "cuda?", description="cuda! (CUDA or do not start), cuda? (prefer CUDA), cpu"
    )
    variant: Literal["auto", "fp32", "fp16", "int8"] = Field(
        "auto", description="precision to serve; auto takes the fastest that the bundle shows to be as good"
    )
    max_accuracy_loss: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.01, description="top-1 that `variant=auto` may give up against fp32, as a share"
    )

    workers: Annotated[int, Field(ge=0, le=256, validate_default=True)] = Field(
        0,
        description="gunicorn workers; 0 is one for each core, at most 8; with 1 the engine runs inside it, with more"
        " in a process of its own",
    )
    threads: Annotated[int, Field(ge=4, le=512)] = Field(48, description="threads per worker")
    reserved_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="threads per worker that only health, metrics and refusals may use"
    )
    connections: Annotated[int, Field(ge=16, le=100_000)] = Field(
        1000, description="open connections per worker; fewer where the limit of open files is lower"
    )
    keepalive_s: Seconds = Field(15.0, description="seconds that an idle connection is kept")
    read_timeout_s: Seconds = Field(30.0, description="seconds that a client may take to send one request")

    max_body_bytes: Bytes = Field(32 * 2**20, description="largest request body")
    buffer_bytes: Bytes = Field(
        256 * 2**20, description="bytes of requests that are arriving, per worker; more are refused"
    )
    max_image_bytes: Bytes = Field(20 * 2**20, description="largest encoded image")
    max_pixels: Bytes = Field(50_000_000, description="most pixels of one image, judged from its header")
    max_decode_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        10.0, description="most seconds that decoding one image may take"
    )
    max_images: Annotated[int, Field(ge=1, le=4096)] = Field(64, description="most images in one request")
    deadline_ms: Annotated[float, Field(gt=0)] = Field(
        10_000.0, description="deadline of a request without X-Request-Deadline-Ms, in milliseconds"
    )

    p99_objective_ms: Annotated[float, Field(gt=0)] = Field(
        1000.0, description="99 % of answers within this many milliseconds: caps the batch size"
    )
    max_batch: Annotated[int, Field(ge=0, le=4096)] = Field(0, description="largest batch; 0 to measure it")
    queue_images: Annotated[int, Field(ge=1)] = Field(1024, description="most images waiting, over all models")
    runners: Annotated[int, Field(ge=0, le=64)] = Field(
        0, description="batches in flight; 0 for what `tune` found, else one per core on the CPU and two on CUDA"
    )
    runner_threads: Annotated[int, Field(ge=0, le=256)] = Field(
        0, description="threads of one session; 0 for what `tune` found, else one per runner"
    )
    warmup_s: Seconds = Field(3.0, description="most seconds spent measuring one model's latency curve")
    tuning: Path | None = Field(None, description="file that `tune` writes and `serve` reads")

    cuda_device: Annotated[int, Field(ge=0)] = Field(0, description="index of the CUDA device")
    cuda_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="most device memory of a session, of which each batch size has one; 0 for no limit"
    )
    cuda_conv_search: Literal["HEURISTIC", "EXHAUSTIVE", "DEFAULT"] = Field(
        "HEURISTIC", description="how cuDNN picks a convolution"
    )
    cuda_tf32: bool = Field(False, description="let fp32 networks multiply with 10 bits of mantissa: less exact")

    watch_s: Annotated[float, Field(gt=0)] = Field(1.0, description="seconds between two looks at the store")
    hang_s: Annotated[float, Field(ge=1.0)] = Field(
        6.0, description="seconds without a sign of life after which the engine is replaced"
    )
    batch_limit_s: Annotated[float, Field(ge=1.0)] = Field(
        30.0, description="seconds that one batch may take before its engine counts as hung"
    )
    drain_pause_s: Seconds = Field(0.0, description="seconds between falling readiness and the end of accepting")
    drain_s: Seconds = Field(30.0, description="seconds that requests in flight get to finish")
    runtime: Path = Field(
        Path("/tmp"),  # noqa: S108
        description="folder for sockets and process ids; each service makes its own in it",
    )

    api_keys: Path | None = Field(
        None, description="file of hashed API keys; without it predictions are open and admin endpoints closed"
    )
    rate_limit: Annotated[float, Field(ge=0)] = Field(
        0.0, description="requests per second that one caller (key, else address) may make on average; 0 for no limit"
    )
    rate_burst: Annotated[int, Field(ge=1)] = Field(20, description="requests that one caller may make at once")
    cors_origins: tuple[str, ...] = Field(
        (), description='JSON list of the origins whose pages may call the service, such as ["https://a.example"]'
    )
    tls_certificate: Path | None = Field(None, description="PEM file with the certificate chain, to serve HTTPS")
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key")
    feedback: Path | None = Field(None, description="folder in which POST /feedback keeps true labels; off without it")
    feedback_max_bytes: Bytes = Field(2**30, description="most bytes in the feedback folder")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["json", "text"] = Field("json", description="json for machines, text for a terminal")
    access_log: Literal["all", "errors", "none"] = Field(
        "errors", description="which answers are logged; with errors, at most ten 429 and 503 a second and worker"
    )

    @field_validator("workers")
    @classmethod
    def _counted(cls, workers: int) -> int:
        return workers or min(available_cores(), _MOST_WORKERS)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.reserved_threads >= self.threads:
            raise ValueError(
                f"CLEARSIGHT_RESERVED_THREADS ({self.reserved_threads}) must be below CLEARSIGHT_THREADS"
                f" ({self.threads})"
            )
        places, batch = self.workers * self.tickets, self.max_batch * max(1, self.runners)
        if batch > places:
            raise ValueError(
                f"CLEARSIGHT_MAX_BATCH x CLEARSIGHT_RUNNERS ({batch}) can never be filled: CLEARSIGHT_WORKERS x"
                f" (CLEARSIGHT_THREADS - CLEARSIGHT_RESERVED_THREADS) is {places}"
            )
        if self.models and self.default_model not in self.models:
            raise ValueError(f"CLEARSIGHT_DEFAULT_MODEL ({self.default_model}) is not in CLEARSIGHT_MODELS")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("CLEARSIGHT_TLS_CERTIFICATE and CLEARSIGHT_TLS_KEY go together")
        for name in ("api_keys", "tls_certificate", "tls_key"):
            path = getattr(self, name)
            if path and not path.is_file():
                raise ValueError(f"CLEARSIGHT_{name.upper()} ({path}) is not a file")
        if self.api_keys:
            try:
                parse_keys(self.api_keys.read_text())
            except (OSError, ValueError) as error:
                raise ValueError(f"CLEARSIGHT_API_KEYS ({self.api_keys}): {error}") from None
        return self

    @property
    def tickets(self) -> int:
        """Predictions in flight per worker."""
        return self.threads - self.reserved_threads

    @property
    def embedded(self) -> bool:
        """Whether the engine runs inside the one worker."""
        return self.workers == 1


def read_settings() -> Settings:
    """Read the settings from the environment, or stop the process with the name of the bad one and exit code 2."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{PREFIX}{str(first['loc'][0]).upper()}: " if first["loc"] else ""
        given = f" (given: {first['input']!r})" if first["loc"] else ""
        _stop(f"{name}{first['msg'].removeprefix('Value error, ')}{given}")
    except SettingsError as error:
        _stop(f"{error}: a list must be written as JSON")


def describe_settings() -> list[tuple[str, str, str]]:
    """List every setting as (variable, default, description), in the order of the class."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default)
        rows.append((f"{PREFIX}{name.upper()}", "[]" if default == "()" else default, field.description or ""))
    return rows


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"clearsight: {message}\n")
    raise SystemExit(EXIT_SETTINGS)
