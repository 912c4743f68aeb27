# `make serve` runs the main job, `make test` proves it; both set everything up first.
SHELL := /bin/sh
PYTHON ?= python3.11
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev peers peers-long serve test test-long test-pythons check lock bench bench-receive bench-export bench-backfill bench-read faults fidelity dist deb clean

help:                 ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 16

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null && exec $(PYTHON) -m venv .venv || exec python3 -m venv .venv

# uv installs the locks in a tenth of pip's time. pip stays the way where uv cannot: it knows mirrors of pip.conf, uv does not.
# Bytecode is made here: where PYTHONDONTWRITEBYTECODE or the rights of a user forbid to keep it, every start would compile
# a thousand modules.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
install_lock = $(PIP) --require-hashes -r requirements-uv.txt \
	&& $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r $(1) \
	|| $(PIP) --require-hashes -r $(1)

# A stamp per lock file: a second `make` costs nothing.
.venv/.setup: requirements.txt requirements-uv.txt pyproject.toml | .venv/bin/python
	$(call install_lock,requirements.txt)
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q exporter listener
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

# Thousands of processes start in the tests; none shall compile what another has compiled.
test test-long: export PYTHONDONTWRITEBYTECODE :=

test: setup-dev peers ## the tests, with real peers; those that kill, fill, cut or wait for long are in test-long
	$(BIN)/python -m pytest -n 4 --dist loadgroup -m "not slow"

peers-long: peers
	@sh tests/install-peers long

test-long: setup-dev peers-long ## the slow tests: kills, full disks, power cuts, memory, every pixel of the corpus
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

test-pythons: setup-dev peers ## the quick tests under every declared Python that is installed
	@sh tests/run-pythons

check: setup-dev      ## lint, format, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory test

lock: setup-dev       ## make the hashed locks anew from pyproject.toml
	$(BIN)/uv pip freeze -q --python $(BIN)/python | grep '^uv==' | $(BIN)/uv pip compile -q - --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -o requirements-uv.txt
	$(BIN)/uv pip compile -q pyproject.toml --extra page --group build --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -o requirements.txt
	$(BIN)/uv pip compile -q pyproject.toml --extra page --group build --group dev --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements.txt -o requirements-dev.txt

bench: setup-dev peers ## measure everything against peers, interleaved: docs/benchmarks.md (ROUNDS="--rounds 3 --quick": faster)
	$(BIN)/python -m bench all $(ROUNDS)

bench-receive: setup-dev peers ## receiving against storescp, Orthanc and pynetdicom, written to docs/benchmarks.md
	$(BIN)/python -m bench receive $(ROUNDS)

bench-export: setup-dev peers ## exporting against DCMTK, FFmpeg, GDCM, the seeds' methods and the bare libraries
	$(BIN)/python -m bench export $(ROUNDS)

bench-backfill: setup-dev peers ## headers, reruns, start-up and memory of a backfill
	$(BIN)/python -m bench backfill $(ROUNDS)

bench-read: setup-dev peers ## reading what was exported, as training code does
	$(BIN)/python -m bench read $(ROUNDS)

faults: setup-dev peers ## the fault suite in its long form: power cuts, crash points, full disks, fuzzing; a report table
	$(BIN)/python -m tests.faults

fidelity: setup-dev peers ## every pixel and every time of the corpus against independent decoders: docs/fidelity.md
	$(BIN)/python -m tests.fidelity

dist: setup-dev       ## wheel, source archive, bill of materials and their SHA256SUMS, below dist/
	rm -rf dist && mkdir dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m venv --without-pip dist/.venv
	$(BIN)/uv pip install --quiet --python dist/.venv/bin/python --require-hashes -r requirements.txt
	$(BIN)/uv pip install --quiet --python dist/.venv/bin/python --no-deps dist/*.whl
	$(BIN)/python packages/sbom.py dist/.venv/bin/python >dist/sbom.json
	rm -rf dist/.venv
	cd dist && sha256sum * >SHA256SUMS

deb: dist             ## a Debian package of dist/'s wheel, for /usr/bin/python3
	$(BIN)/python packages/deb/build.py dist/*.whl dist
	cd dist && rm SHA256SUMS && sha256sum * >SHA256SUMS

clean:
	rm -rf .venv .peers build dist .mypy_cache .ruff_cache .pytest_cache
