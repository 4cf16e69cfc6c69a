# Needs Python 3.11-3.13, git and GNU make; everything else is installed into $(VENV).
# `make demo` installs what a user needs, `make test` what a developer needs besides.

PYTHON     ?=
VENV       ?= .venv
EXPERIMENT ?= experiments/quickstart.yaml
RESULTS    ?= experiments/quickstart-results
PYTEST_ARGS ?=
BENCH_ARGS ?=
CALIBRATE_ARGS ?=
HISTORY    ?=
AUDIT_ARGS ?=

BIN  := $(VENV)/bin
CORE := $(VENV)/.installed-core
DEV  := $(VENV)/.installed-dev
STARTED := $(shell date +%s)

export PYTHON
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint format bench calibrate audit-history history-named hooks constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
	    while IFS='|' read -r target what; do printf '%-20s %s\n' "$$target" "$$what"; done
	@echo "  Variables: PYTHON, VENV=$(VENV), RESULTS=$(RESULTS), PYTEST_ARGS"

demo: $(CORE) ## install, run the quickstart experiment, print its report
	@sh scripts/demo.sh "$(VENV)" "$(EXPERIMENT)" "$(RESULTS)" "$(STARTED)"

test: $(DEV) ## install, check style and types, run the tests
	@sh scripts/ensure-bubblewrap.sh "$(VENV)/.bubblewrap-refused"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEV) ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV) ## sort imports, repair what ruff can, format
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format

bench: $(DEV) ## time our own overhead: JSON and a Markdown table
	@sh scripts/ensure-bubblewrap.sh "$(VENV)/.bubblewrap-refused"
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

calibrate: $(DEV) ## many sessions per quickstart task: are the verdicts right? (long, resumable, not in CI)
	@sh scripts/ensure-bubblewrap.sh "$(VENV)/.bubblewrap-refused"
	$(BIN)/python -m tests.calibration $(CALIBRATE_ARGS)

history-named:
	@test -n "$(HISTORY)" || { echo "name a clone: make audit-history HISTORY=path" >&2; exit 2; }

audit-history: history-named $(DEV) ## leak audit on commits of a clone: HISTORY=path [AUDIT_ARGS="--tasks 30"]
	$(BIN)/python -m tests.history "$(HISTORY)" $(AUDIT_ARGS)

hooks: $(DEV) ## let git run the checks before each commit
	$(BIN)/pre-commit install

constraints: ## pin the newest versions anew (in a throw-away environment; then: make test)
	@sh scripts/renew-constraints.sh

clean: ## remove the environment, caches and builds; results stay
	rm -rf "$(VENV)" build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find isobench_ray tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

$(CORE): pyproject.toml constraints.txt
	@sh scripts/install.sh "$(VENV)" core

$(DEV): pyproject.toml constraints.txt
	@sh scripts/install.sh "$(VENV)" dev
