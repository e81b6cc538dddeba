# Needs only Python 3.11 or newer with venv, and the network for the first install.
# `make check` is what CI runs. PYTHON=python3.13 picks another interpreter for a new .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto
PYTEST_ARGS ?=
SOAK_S ?= 3600

# Tests start `flowkit`, mypy, pyright and ty by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DELETE_ON_ERROR:
.PHONY: help demo dev test lint format check ci-long soak bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- environment: each stamp is newer than pyproject.toml, or its install is done again ----

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flowkit needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	@touch $@

# The pip that comes with Python 3.11 does not know dependency groups.
$(VENV)/.stamp-dev: $(VENV)/.stamp-all
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

dev: $(VENV)/.stamp-dev ## .venv with flowkit (editable), all extras and the tools

# ---- use ----

demo: $(VENV)/.stamp-all ## a workflow that is killed and resumed, without a key
	$(BIN)/flowkit demo

# ---- checks ----

# No test at all is a failure too: pytest ends with 5, or conftest says so when all were skipped.
test: $(VENV)/.stamp-dev ## every test that is not long
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m 'not long and not soak' $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev ## format, ruff, mypy, pyright, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.stamp-dev ## write what `ruff format` and its safe fixes want
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: ## all that CI checks on a change
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test

# INT lets pytest print what it has; the time box is a failure, not a pass.
ci-long: $(VENV)/.stamp-dev ## the long tests, 30 minutes at most
	timeout --signal=INT --kill-after=30s 30m \
	    $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m 'long and not soak' $(PYTEST_ARGS)

soak: $(VENV)/.stamp-dev ## crash and resume for an hour (SOAK_S=seconds)
	FLOWKIT_SOAK_S=$(SOAK_S) $(BIN)/python -m pytest -m soak -o timeout=0 $(PYTEST_ARGS)

bench: $(VENV)/.stamp-dev ## every benchmark, a JSON line for each row
	$(BIN)/python -m benchmarks all --json

clean: ## all that can be made again
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .import_linter_cache \
	    .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
