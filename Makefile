# Everything runs in $(VENV), which is made on first use. `make test` runs every test that is not
# marked slow; `make check`, which CI runs, the linters and all tests; `make check-lowest` what
# `make test` runs, with the lowest versions that pyproject.toml admits.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
CONSTRAINTS ?= constraints.txt
BIN = $(VENV)/bin
# one process per core, each with one thread; tests that share costly fixtures share a process, and
# the groups start in the order that tests/conftest.py gives them
# -rs: what was skipped, and why, stands above the last line
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder -rs

.PHONY: demo test check check-lowest coverage bench reference web clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/mobilenas run --data digits --flops 500k --effort quick --out runs/demo --overwrite

test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST)

check-lowest:
	$(MAKE) test VENV=$(LOWEST) CONSTRAINTS=constraints-lowest.txt

# which lines no test runs
coverage: $(VENV)/.installed
	$(PYTEST) --cov=mobilenas --cov=cli --cov-report=term-missing:skip-covered

bench: $(VENV)/.installed
	$(BIN)/python bench/run.py
	$(BIN)/python bench/run.py --side 64 --flops 20000000 --batch 32
	$(BIN)/python bench/cells.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/graphs.py
	$(BIN)/python bench/latency.py

reference: $(VENV)/.installed
	$(BIN)/python -m mobilenas.cli.reference > docs/reference.md

# onnxruntime-web for the pages, from npm; a wheel that is built afterwards carries it
web: $(VENV)/.installed
	$(BIN)/python -m mobilenas.web.runtime

# constraints.txt holds the versions that were tested; pip reads the ranges from pyproject.toml.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable ".[demo,dev]"
	touch $@

# Environments only where they are the default: a folder somebody else named is not ours to delete.
clean:
	rm -rf .venv .venv-lowest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
