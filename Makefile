# Everything runs from a local environment; the first target that needs it builds it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread per process: the suite runs two processes side by side on two cores.
export OMP_NUM_THREADS ?= 1
# Shapes are checked in the rooms of numbers. Not around whole runs: the checker draws from Python's random state, and those
# tests prove that nothing of ours does.
NUMBERS := tests/functional tests/mechanics tests/symmetry
SHAPES := --jaxtyping-packages=dynascope.functional,dynascope.mechanics,dynascope.symmetry,beartype.beartype
OTHERS := $(addprefix --ignore=,$(NUMBERS))

.PHONY: setup demo test check format lint types imports unit studies docs bench clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)  ## create .venv with everything that demo and test need

demo: setup  ## train a VGG-like network under observation and print verdicts and the report's path
	OMP_NUM_THREADS=2 $(BIN)/python examples/demo.py

test: setup format lint types imports  ## everything that must hold on main
	$(BIN)/python -m pytest -n 2 $(NUMBERS) $(SHAPES)
	$(BIN)/python -m pytest -n 2 tests $(OTHERS)
	$(BIN)/python -m pytest --doctest-modules dynascope

check: setup format lint types imports unit  ## the fast inner loop

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/basedpyright

imports: setup
	$(BIN)/lint-imports --no-logo

unit: setup
	$(BIN)/python -m pytest -n 2 -m "not slow" $(NUMBERS) $(SHAPES)
	$(BIN)/python -m pytest -n 2 -m "not slow and not browser" tests $(OTHERS)
	$(BIN)/python -m pytest --doctest-modules dynascope

studies: setup  ## reproduce every study at quick scale
	$(BIN)/dynascope reproduce all --scale quick

docs: setup  ## write the citation list from the cards
	$(BIN)/python -c "from dynascope.api.catalogue import citations; print(citations(), end='')" > CITATIONS.md

bench: setup  ## measured ratios, side by side in one run
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/curvature.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
