# Two commands on a bare machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SEEDS ?= 100000
ROWS ?= 1000000
KILLS ?= 100
# Each process of tests takes up to 3 GB, and starts its own Ray.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest
# Real photographs, where they lie beside the checkout and nobody named others (or none: BATCHREC_TEST_DATA=).
export BATCHREC_TEST_DATA ?= $(realpath ../shared/data)

.PHONY: demo test test-cluster test-slow test-gpu soak soak-cluster mutants check lint types layers clean

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "batchrec needs Python 3.11 or newer; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(INSTALLED)  ## draw a sample archive and recognise it with the bundled model
	@rm -rf .demo
	$(BIN)/batchrec sample .demo/archive --images 1000 --broken 0.01
	$(BIN)/batchrec submit .demo/archive/manifest.parquet -o .demo/out
	$(BIN)/batchrec verify .demo/out

test: $(INSTALLED)  ## the tests of every push
	$(PYTEST) -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-cluster: $(INSTALLED)  ## real Rays, one of four raylets with token authentication, killed and stopped while they work
	$(PYTEST) -m cluster

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

test-gpu: $(INSTALLED)
	$(PYTEST) -m gpu

soak: $(INSTALLED)  ## histories of the simulation, SEEDS of them; prints the first that fails and how to replay it
	$(BIN)/python -m tests.simulation.soak --seeds $(SEEDS)

soak-cluster: $(INSTALLED)  ## a job of ROWS rows on four raylets and a bucket on a bad day, KILLS times killed; a quarter of an hour
	$(BIN)/python -m tests.cluster.soak --rows $(ROWS) --kills $(KILLS)

mutants: $(INSTALLED)  ## every guard of the protocol taken out in turn; something must notice each time
	$(BIN)/python -m tests.mutants

check: lint types layers  ## everything that reads the code instead of running it

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache
