# One virtual environment, made from the clone alone; every target depends on it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# What an installation is made from and a .py file is not: those are read from the tree.
BUILT_FROM := pyproject.toml hatch_build.py bpf_build.py bpf_elf.py $(wildcard bpf/*.bpf.*) \
	$(wildcard src/finwait/text/locale/*/LC_MESSAGES/*.po)

.PHONY: run test check bench docs regenerate bpf clean
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

# Only where there is no .dev yet: an edit of bpf/ needs no new installation here, and that takes 3 seconds.
bpf: $(if $(wildcard $(VENV)/.dev),,$(VENV)/.dev) ## compile bpf/ into the package and write wire/bpf_layouts.py
	@$(BIN)/python scripts/bpf_layouts.py

clean:
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run
