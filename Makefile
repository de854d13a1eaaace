# `make demo` and `make test` are all a newcomer runs; both create the environment when it is missing or stale.
# the first of these that runs and is new enough (a version manager's shim may exist and not run)
PYTHON ?= $(shell for name in python3 python3.12 python3.11 python3.13; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test test-slow lint bench gpu-bench clean

help:
	@echo "make setup   create $(VENV) with everything installed"
	@echo "make demo    genomes to shards to a trained model to a Hugging Face folder, in minutes"
	@echo "make test    the test suite, about ten minutes"
	@echo "make test-slow  what takes longer: runs under kills, full disks, NaN and hangs, whole genomes"
	@echo "make lint    formatting, lint and types"
	@echo "make bench   timings of the hot paths"
	@echo "make gpu-bench  parity, bandwidth and training speed on one GPU, under eight minutes"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "dnachunker needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/dnachunker demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

gpu-bench: $(STAMP)
	$(BIN)/python benchmarks/gpu/run.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/demo
