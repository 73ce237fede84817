# Every chore of the project. `make demo` and `make test` set up all they need.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.samplat-installed

.PHONY: help setup demo test test-all lint format bench docs clean

help:  ## list the chores
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(STAMP)  ## create .venv and install samplat with everything it needs

$(STAMP): pyproject.toml constraints.txt tools/system-packages.sh
	PYTHON=$(PYTHON) bash tools/system-packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: setup  ## segment a photograph and a georeferenced scene into demo/
	$(BIN)/python docs/examples/demo.py --output demo

# one more than there are processors, at most four: tests of processes and windows wait a lot
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n < 3 ? n + 1 : 4 )))
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

test: lint  ## everything that has to hold before a change lands
	$(PYTEST) -m "not slow"

test-all: lint  ## the same with the long runs
	$(PYTEST)

lint: setup  ## formatting, types, import directions, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy samplat plugins napari_sam
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

format: setup  ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## accuracy of the bundled model and of classical tools, fine-tuning, speed
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/instances.py
	$(BIN)/python benchmarks/finetuning.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/engine.py

docs: setup  ## the documentation, in site/
	$(BIN)/mkdocs build --strict

clean:  ## remove everything that the chores made
	rm -rf $(VENV) site demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
