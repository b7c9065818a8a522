# Three images from one file: `service` (CPU), `service-gpu` and `training`.
#
#   docker build --target service --tag clearsight-service .
#
# No serving image holds torch. `service-gpu` needs an NVIDIA driver of the 580 series or newer (CUDA 13) and the
# NVIDIA container toolkit on the host; CUDA and cuDNN come as Python packages, so the base stays slim.
ARG PYTHON=3.11-slim-bookworm

FROM docker.io/library/python:${PYTHON} AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:$PATH
RUN groupadd --gid 10001 clearsight \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin clearsight
WORKDIR /app

# Dependencies come before the code, so that a change of code rebuilds only the last layer. With no package beside
# pyproject.toml the distribution itself is empty: the code runs from /app. Its README and LICENSE are left empty too, or
# a change of words would install everything anew.
FROM base AS dependencies
# A compiler for gunicorn's HTTP parser in C; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && python -m venv /opt/venv \
 && touch README.md LICENSE
COPY pyproject.toml constraints.txt ./

# The CPU image takes onnxruntime's CPU build, a tenth of the GPU build's size; constraints.txt pins both alike.
FROM dependencies AS service-dependencies
RUN pip install --constraint constraints.txt '.[service]' \
 && (pip install --constraint constraints.txt '.[fast]' || echo 'gunicorn parses HTTP in Python') \
 && pip uninstall --yes onnxruntime-gpu \
 && pip install --constraint constraints.txt --force-reinstall --no-deps onnxruntime \
 && pip uninstall --yes clearsight pip setuptools

FROM dependencies AS service-gpu-dependencies
RUN pip install --constraint constraints.txt '.[service,cuda]' \
 && (pip install --constraint constraints.txt '.[fast]' || echo 'gunicorn parses HTTP in Python') \
 && pip uninstall --yes clearsight pip setuptools

FROM dependencies AS training-dependencies
RUN pip install --constraint constraints.txt '.[training]' \
 && pip uninstall --yes clearsight pip setuptools

FROM scratch AS service-code
COPY bundle /bundle
COPY service /service
COPY deploy/gunicorn.conf.py /deploy/gunicorn.conf.py

FROM base AS serving
ENV CLEARSIGHT_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["python", "-m", "service", "serve"]
LABEL org.opencontainers.image.title="Clearsight service" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM serving AS service
COPY --from=service-dependencies /opt/venv /opt/venv
COPY --from=service-code / /app/
COPY --chown=10001:10001 exported exported
ENV CLEARSIGHT_DEVICE=cpu

FROM serving AS service-gpu
COPY --from=service-gpu-dependencies /opt/venv /opt/venv
COPY --from=service-code / /app/
COPY --chown=10001:10001 exported exported
ENV CLEARSIGHT_DEVICE=cuda!

FROM base AS training
COPY --from=training-dependencies /opt/venv /opt/venv
COPY bundle bundle
COPY training training
COPY --chown=10001:10001 exported exported
# matplotlib and torch keep caches; the root file system may be read-only, /tmp never is.
ENV MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/tmp/torch \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]
LABEL org.opencontainers.image.title="Clearsight training" \
      org.opencontainers.image.licenses="Apache-2.0"
