# One environment, built on first use from the hash-locked requirements.lock; every verb runs inside it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
GRID ?= quick
MACHINES ?=
RUN ?=
PASSES ?=
SCHEDULER ?=
EVIDENCE ?=
JOBS ?= 2
PYTEST ?=
SHORT ?=
CHAOS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help report test vm chaos setup lab bench docs lint format lock clean sample synthetic

help: ## list the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo
	@echo "  GRID=full make report    a longer grid (quick, full, tiny, or a YAML file)"
	@echo "  PASSES=9 make report     more processes per cell, narrower intervals"

report: $(READY) ## measure this machine (about 6 minutes on two CPUs) and write reports/<run>.html
	@runs=$$($(BIN)/ktask sweep $(GRID) $(if $(RUN),--run $(RUN)) \
	  $(if $(PASSES),--passes $(PASSES)) $(if $(SCHEDULER),--scheduler $(SCHEDULER)) \
	  $(if $(EVIDENCE),--evidence $(EVIDENCE))); \
	  mapfile -t runs <<<"$$runs"; $(BIN)/ktask report "$${runs[@]}"

test: $(READY) ## run the tests, two at a time (PYTEST="..." adds options)
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST)

vm: $(READY) ## run tests on emulated machines with many CPUs and nodes (needs root, QEMU; see docs/machines.md)
	@$(BIN)/python tests/vm/lane.py $(MACHINES)

chaos: $(READY) ## kills, races, hostile input, faults, bad peers (an hour; SHORT=1: a minute; see docs/reliability.md)
	@$(BIN)/python tests/chaos/campaign.py $(if $(SHORT),--short) $(CHAOS)

setup: $(READY) ## build the environment in .venv, and nothing else

lab: $(READY) ## open the notebooks in JupyterLab, at the map of what there is
	@$(BIN)/jupyter lab --notebook-dir=notebooks notebooks/index.ipynb

bench: $(READY) ## the engine beside its peers, and how long a report takes: tables, and JSON in build
	@mkdir -p build && $(BIN)/python benchmarks/bench.py --processes 5 --json build/bench.json
	@$(BIN)/python benchmarks/threads.py --json build/threads.json
	@$(BIN)/python benchmarks/report.py --json build/report.json

docs: $(READY) ## build the documentation in build/docs, and run its examples
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs -b html . build/docs
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/docs/.doctrees -b doctest . build/docs/.doctest
	@ln -sf README.html build/docs/index.html; echo build/docs/index.html

lint: $(READY) ## check style, types, the direction of imports, and that notebooks carry no outputs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python tests/check_notebooks.py

format: $(READY) ## put the code in the common format
	@$(BIN)/ruff check --fix-only -q . ; $(BIN)/ruff format -q .

synthetic: $(READY) ## make the runs of simulated machines again, and the report of one with 128 CPUs
	@$(BIN)/python tests/synthetic/make.py
	@$(BIN)/ktask report data/synthetic-128-cpus --out reports/synthetic-128-cpus.html

sample: GRID := questions
sample: $(READY) ## measure the committed sample run and its report again
	@rm -rf data/runs/sample
	@$(BIN)/ktask sweep $(GRID) --run sample
	@rm -rf data/sample && cp -r data/runs/sample data/sample && rm -rf data/sample/cells data/sample/.lock
	@$(BIN)/python docs/pictures.py
	@$(BIN)/ktask report data/sample --out reports/sample.html

lock: ## resolve the dependencies anew
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --extra dev \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## remove the environment, caches and measured runs
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis data/runs
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find reports -name '*.html' ! -name sample.html ! -name synthetic-128-cpus.html -delete

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ktask needs Python 3.11 or later; set PYTHON=python3.12, say" >&2; exit 2; }
	@echo "building the environment in $(VENV) (once, less than a minute) ..." >&2
	@$(PYTHON) tools/build_environment.py $(VENV)
	@$(BIN)/python -m ktask.cli.precompile
	@touch $(READY)
