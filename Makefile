# One virtual environment, made from the clone alone; every target depends on it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: run test check bench docs regenerate clean
.DELETE_ON_ERROR:

run: $(VENV)/.run ## install into .venv and print this host's census
	@$(BIN)/finwait

test: $(VENV)/.dev ## install into .venv with the test tools and run every test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev ## style, types, import contracts, generated files, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/regenerate.py --check

bench: $(VENV)/.dev ## the benchmark table, with the peers in the same run
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs regenerate: $(VENV)/.dev ## write everything that is generated: catalogues, command reference, manual pages, completions
	$(BIN)/python scripts/regenerate.py

clean:
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml hatch_build.py $(wildcard src/finwait/text/locale/*/LC_MESSAGES/*.po)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml hatch_build.py $(wildcard src/finwait/text/locale/*/LC_MESSAGES/*.po)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run
