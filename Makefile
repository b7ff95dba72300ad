# Everything sets itself up: `make run` and `make test` work on a fresh machine with python3, venv and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := agent aggregator proto tests

.PHONY: help setup run demo test check lint types proto proto-lint proto-current bench leaklab soak system-packages \
        clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with everything

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "loiter needs Python 3.11 or later; \
	give one by make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "python3-venv is missing; on Debian: apt-get install python3-venv" >&2; \
	exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[aggregator]' --group dev
	@touch $@

run: $(READY) ## Start an aggregator and an agent of this machine, and show the live ranking until Ctrl-C
	@PATH="$(abspath $(BIN)):$$PATH" exec deploy/run-local.sh

demo: $(READY) ## The same, with programs that misbehave, so that there is something to see
	@PATH="$(abspath $(BIN)):$$PATH" exec deploy/demo.sh

test: $(READY) system-packages ## Run the tests
	$(BIN)/python -m pytest

check: lint types proto-lint proto-current ## Check style, types and the wire contract

lint: $(READY)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(READY)
	$(BIN)/mypy

proto-lint: $(READY)
	$(BIN)/buf lint proto

proto-current: $(READY)
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && proto/generate.sh "$$fresh" $(BIN)/python && \
	for file in $$(cd "$$fresh" && find loiter -type f); do \
	  cmp -s "$$fresh/$$file" "proto/$$file" || { echo "proto/$$file is not current: run 'make proto'" >&2; exit 1; }; \
	done && echo "generated code is current"

proto: $(READY) ## Generate the code of the wire contract
	proto/generate.sh proto $(BIN)/python

bench: $(READY) system-packages ## Measure what a tick costs, beside the alternatives, and a restart
	$(BIN)/python tests/bench/sampler.py
	$(BIN)/python tests/bench/namespaces.py
	$(BIN)/python tests/bench/recovery.py

leaklab: $(READY) system-packages ## Score the verdicts against programs that misbehave in known ways
	PYTHONPATH=tests $(BIN)/python -m leaklab.score

soak: $(READY) system-packages ## Fuzz with a million inputs, then kill, cut and restart: about 45 minutes
	PYTHONPATH=tests $(BIN)/python -m fuzz.soak
	SOAK=1 $(BIN)/python -m pytest -s tests/e2e/test_delivery.py tests/e2e/test_network_cut.py tests/e2e/test_reconnect.py

system-packages:
	@tests/system-packages.sh

clean: ## Remove what the other targets made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
