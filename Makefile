# Every target prepares what it needs and is quick the second time.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
MODEL  ?= digits
RECIPE ?= training/recipes/digits.toml
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo podman-compose)

.DEFAULT_GOAL := help
.PHONY: help serve test faults soak lint format train export retrain bench up fuzz audit test-containers lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.service ## serve the bundles in exported/ on port 8000
	$(PY) -m service serve

test: lint ## install everything, then run lint, types and all tests
	$(PY) -m pytest

lint: $(VENV)/.dev ## ruff, mypy, hadolint and the schemas of the compose files and Kubernetes manifests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.gpu.yml
	$(VENV)/bin/kubernetes-validate --strict --quiet deploy/kubernetes/clearsight.yaml

format: $(VENV)/.dev ## rewrite the code in the project's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

train: $(VENV)/.training ## train RECIPE=training/recipes/<name>.toml
	$(PY) -m training train $(RECIPE)

export: $(VENV)/.training ## export RUN=runs/<id> into exported/
	$(PY) -m training export $(RUN)

retrain: $(VENV)/.training ## fine-tune MODEL=<name> from its champion and promote it if it is not worse
	$(PY) -m training retrain --model $(MODEL)

test-containers: $(VENV)/.dev ## build the images and run them together (needs docker or podman)
	$(PY) -m pytest -m containers tests/containers

faults: $(VENV)/.dev ## kill, stop, flood and starve a running service, three times over
	for turn in 1 2 3; do FAULTS=tight $(PY) -m pytest -q tests/e2e || exit 1; done
	$(PY) -m tests.e2e.overload 60

soak: $(VENV)/.dev ## ten minutes of traffic; fails when memory or file descriptors grow (MINUTES=10)
	$(PY) -m tests.e2e.soak $(or $(MINUTES),10)

bench: $(VENV)/.bench ## measure speed on this machine
	$(PY) -m bench

fuzz: $(VENV)/.dev ## fuzz decoding, the V2 parser and the whole API, FUZZ_FACTOR (50) times as long as `make test`
	FUZZ_FACTOR=$${FUZZ_FACTOR:-50} $(PY) -m pytest --timeout 7200 \
	  tests/bundle/test_preprocess_fuzz.py tests/service/test_v2_tensors.py tests/api/test_schemathesis.py \
	  tests/api/test_limits.py

audit: $(VENV)/.dev ## look for known vulnerabilities in the pinned dependencies (asks pypi.org, or OSV=<address>)
	$(PY) .ci/audit.py constraints.txt $(if $(OSV),--osv $(OSV))

up: ## the service and Prometheus in containers (docker compose, else podman-compose)
	$(COMPOSE) up --build

lock: $(VENV)/.dev ## compile constraints.txt anew
	$(PY) -m piptools compile --quiet --upgrade --all-extras --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --no-header --no-annotate --output-file constraints.txt pyproject.toml
	@sed -i '/^clearsight @/d' constraints.txt
	@grep '^onnxruntime-gpu==' constraints.txt | sed 's/-gpu//; s/ ;.*//' >> constraints.txt

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service $(VENV)/.training $(VENV)/.dev $(VENV)/.bench: $(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[$*]'
	@$(PIP) --editable '.[fast]' >/dev/null 2>&1 || echo 'No C compiler: gunicorn parses HTTP in Python, a little slower.'
	@touch $@ $(if $(filter dev,$*),$(VENV)/.service $(VENV)/.training)
