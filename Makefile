# `make demo` and `make test` each do everything from a bare clone; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests use one known torch. It goes in before whatever depends on torch, which would otherwise draw in its own choice.
TORCH_VERSION ?= 2.13.0
# --no-compile halves the time: Python compiles what is really imported, when it is.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
PYTEST_ARGS ?=
COMPILED := out/compiled
SOURCES := $(wildcard rakka_sim/*.py rakka_sim/*/*.py rakka_sim/*/*/*.py rakka_sim/*/*/*/*.py)
# All but the million requests, which take minutes either way.
PLAIN_CASES := azure_conv_4 azure_conv_8 poisson_8 poisson_64 mooncake_prefix
TESTS_OF_COMPILED := tests/core tests/runtime tests/actors tests/scenarios tests/timing tests/report \
	tests/records tests/workload tests/engines/test_modelled.py tests/test_bad_input.py

# Who asks for it in the environment does not mean the editable installation, whose sources are what runs.
export RAKKA_SIM_COMPILE := 0

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check format notebooks bench compiled test-compiled floors clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/core ## simulate the quickstart scenario and draw its report into out/demo
	$(BIN)/rakka-sim run scenarios/quickstart.toml --out out/demo
	@echo "The report is in out/demo; its pictures:"
	@find out/demo -name '*.png' | sort | sed 's/^/  /'

test: check ## every check and every test, notebooks included
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/dev ## lint, format and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev ## put the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(VENV)/dev ## bring each notebook in step with its script, and execute it in place
	$(BIN)/jupytext --sync notebooks/*.py
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

bench: $(COMPILED)/built ## measure accuracy and speed, write benchmarks/results and the pages of docs/ made from it
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/accuracy.py --json benchmarks/results/accuracy.json
	PYTHONPATH=$(COMPILED) $(BIN)/python benchmarks/simulate.py --json benchmarks/results/simulate.json
	$(BIN)/python benchmarks/simulate.py $(PLAIN_CASES) --json benchmarks/results/simulate_plain.json
	$(BIN)/python benchmarks/where_time_goes.py --json benchmarks/results/where_time_goes.json
	$(BIN)/python benchmarks/accuracy_doc.py
	$(BIN)/python benchmarks/write_performance.py

compiled: $(COMPILED)/built ## the package with its hot modules as C extensions, in out/compiled

test-compiled: $(COMPILED)/built ## the tests of what is compiled, on the compiled modules
	PYTHONPATH=$(COMPILED):. $(BIN)/pytest $(TESTS_OF_COMPILED) $(PYTEST_ARGS)

# What pip leaves in build/ of another state of the sources would end up in the package.
$(COMPILED)/built: setup.py pyproject.toml $(SOURCES) | $(VENV)/dev
	rm -rf $(COMPILED) build
	RAKKA_SIM_COMPILE=1 $(PIP_INSTALL) --no-build-isolation --no-deps --target $(COMPILED) .
	touch $@

floors: ## the tests once more, with the oldest core dependencies that pyproject.toml admits
	mkdir -p out
	$(PYTHON) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' | sed 's/>=/==/' >out/floors.txt
	PIP_CONSTRAINT=$(CURDIR)/out/floors.txt $(MAKE) VENV=.venv-floors .venv-floors/dev
	.venv-floors/bin/python -m pytest $(PYTEST_ARGS)

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-floors out/demo out/floors.txt $(COMPILED) build rakka_sim.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f rakka_sim__mypyc.*.so
	find rakka_sim -name '*.so' -delete  # of `setup.py build_ext --inplace`; they would run instead of the sources
	find rakka_sim tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rakka_sim needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/core: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/dev: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) torch==$(TORCH_VERSION)
	$(PIP_INSTALL) --editable '.[dev,live,optimal,silicon]'
	touch $@ $(VENV)/core
