# A newcomer needs only `make demo` and `make test`; both create the environment when it is missing or out of date.
# PYTHON is the first interpreter below that starts and is new enough (the shim of a version manager may not start)
PYTHON ?= $(shell for name in python3 python3.12 python3.11 python3.13; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NULLGPU_VENV := .venv-nullgpu
NULLGPU_STAMP := $(NULLGPU_VENV)/.installed

.PHONY: help setup demo test test-slow nullgpu docs constraints lint peers bench speedrun gpu-bench clean

help:
	@echo "make setup      create $(VENV) with everything installed"
	@echo "make demo       from genomes to shards, a trained model and a Hugging Face folder, in minutes"
	@echo "make test       run the test suite, about ten minutes"
	@echo "make test-slow  run the long tests: training under kills, full disks, NaN and hangs, whole genomes"
	@echo "make nullgpu    run the CUDA path without a GPU, in an environment of its own (several GB), about 15 minutes"
	@echo "make docs       build the documentation site in build/site; runs the tutorial, about three minutes"
	@echo "make constraints  create $(VENV) anew from the newest versions, and write them down in constraints.txt"
	@echo "make lint       check formatting, lint and types"
	@echo "make peers      install the loaders and writers that benchmarks compare with, in .venv-peers"
	@echo "make bench      time the hot paths on a CPU"
	@echo "make speedrun   bases and CPU seconds that preset tiny needs to reach held-out losses; ARGS=... as in its file"
	@echo "make gpu-bench  measure parity, bandwidth and training speed on one GPU, under eight minutes"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "dnachunker needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 2; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/dnachunker demo

# Files of tests run side by side: most of their time is one process that starts.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# the CUDA wheel of one release of torch, which brings the triton whose headers the stand-in runtime is compiled with
$(NULLGPU_STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "dnachunker needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 2; }
	rm -rf $(NULLGPU_VENV)
	$(PYTHON) -m venv $(NULLGPU_VENV)
	$(NULLGPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.11.*' 'triton==3.6.*' -e '.[dev]'
	touch $(NULLGPU_STAMP)

nullgpu: $(NULLGPU_STAMP)
	$(NULLGPU_VENV)/bin/python -m pytest -m nullgpu tests/nullgpu $(ARGS)
	$(NULLGPU_VENV)/bin/python -m pytest tests/model/kernels/test_kernels_triton.py  # `make test` has the newest triton

# The site has the paths of the repository, so that the links between its pages also work where the files lie.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	rm -rf build/pages build/site && mkdir -p build/pages
	cp -r README.md CONTRIBUTING.md CHANGELOG.md docs benchmarks build/pages
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# triton and the CUDA libraries are left out: each build of torch asks for exactly one version of them
constraints:
	rm -rf $(VENV)
	$(MAKE) setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	{ echo '# Versions that were installed and tested together. Written by `make constraints`.'; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' | grep -Eiv '^(triton|nvidia-|cuda-)'; \
	} > constraints.txt

peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	for name in model streaming sharding trainer zero_memory; do $(BIN)/python benchmarks/$$name.py || exit 1; done

speedrun: $(STAMP)
	$(BIN)/python benchmarks/speedrun.py $(ARGS)

gpu-bench: $(STAMP)
	$(BIN)/python benchmarks/gpu/run.py

clean:
	rm -rf $(VENV) $(NULLGPU_VENV) .venv-peers build .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/demo
