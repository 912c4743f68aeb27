# `make serve` runs the main job, `make test` proves it; both set everything up first.
SHELL := /bin/sh
PYTHON ?= python3.11
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev peers peers-long serve test test-long check lock bench bench-receive faults fidelity clean

help:                 ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 16

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null && exec $(PYTHON) -m venv .venv || exec python3 -m venv .venv

# uv installs the locks in a tenth of pip's time. pip stays the way where uv cannot: it knows mirrors of pip.conf, uv does not.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
install_lock = $(PIP) --require-hashes -r requirements-uv.txt \
	&& $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1) \
	|| $(PIP) --require-hashes -r $(1)

# A stamp per lock file: a second `make` costs nothing.
.venv/.setup: requirements.txt requirements-uv.txt pyproject.toml | .venv/bin/python
	$(call install_lock,requirements.txt)
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.setup-dev: requirements-dev.txt .venv/.setup
	$(call install_lock,requirements-dev.txt)
	@touch $@

setup: .venv/.setup           ## own virtual environment from the hashed lock

setup-dev: .venv/.setup-dev

serve: setup          ## listener + exporter on 127.0.0.1:11112, page on 127.0.0.1:8091, output in ./dicom-media
	$(BIN)/exporter serve

peers:                # the real programs that interoperability tests talk to; says what it could not install
	@sh tests/install-peers

test: setup-dev peers ## the tests, with real peers; those that kill, fill, cut or wait for long are in test-long
	$(BIN)/python -m pytest -n 3 --dist loadgroup -m "not slow"

peers-long: peers
	@sh tests/install-peers long

test-long: setup-dev peers-long ## the slow tests: kills, full disks, power cuts, memory, every pixel of the corpus
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

check: setup-dev      ## lint, format, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory test

lock: setup-dev       ## make the hashed locks anew from pyproject.toml
	$(BIN)/uv pip freeze -q --python $(BIN)/python | grep '^uv==' | $(BIN)/uv pip compile -q - --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -o requirements-uv.txt
	$(BIN)/uv pip compile -q pyproject.toml --extra page --group build --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -o requirements.txt
	$(BIN)/uv pip compile -q pyproject.toml --extra page --group build --group dev --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements.txt -o requirements-dev.txt

bench: setup-dev peers ## measure against peers, interleaved
	$(BIN)/python -m bench

bench-receive: setup-dev peers ## receiving against storescp, Orthanc and pynetdicom, written to docs/benchmarks.md
	$(BIN)/python -m bench receive

faults: setup-dev peers ## the fault suite in its long form: power cuts, crash points, full disks, fuzzing; a report table
	$(BIN)/python -m tests.faults

fidelity: setup-dev peers ## every pixel and every time of the corpus against independent decoders: docs/fidelity.md
	$(BIN)/python -m tests.fidelity

clean:
	rm -rf .venv .peers build dist .mypy_cache .ruff_cache .pytest_cache
