# Everything sets itself up: `make run` and `make test` work on a fresh machine with python3, venv and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEPLOY_READY := $(VENV)/.deploy-ready
PEERS_READY := $(VENV)/.peers-ready
SOURCES := agent aggregator proto deploy docs tests

.PHONY: help setup run demo test check lint types proto proto-lint proto-current docs docs-current bench leaklab lab \
        images peers soak deb wheelhouse rpm system-packages clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with everything

$(READY): pyproject.toml deploy/web_assets/assets.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "loiter needs Python 3.11 or later; \
	give one by make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "python3-venv is missing; on Debian: apt-get install python3-venv" >&2; \
	exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[aggregator]' --group dev
	@touch $@

# Ansible, which only the lab needs.
$(DEPLOY_READY): $(READY)
	$(BIN)/python -m pip install --quiet --group deploy
	@touch $@

# What drives the browser, and the like, which only the tests of the other ends need.
$(PEERS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --group peers
	@touch $@

run: $(READY) ## Start an aggregator and an agent of this machine, and show the live ranking until Ctrl-C
	@PATH="$(abspath $(BIN)):$$PATH" exec deploy/run-local.sh

demo: $(READY) ## The same, with programs that misbehave, so that there is something to see
	@PATH="$(abspath $(BIN)):$$PATH" exec deploy/demo.sh

# Two programs of pytest, for two cores; what has to have the machine to itself comes after them, alone.
test: $(READY) system-packages ## Run the tests
	@beside=passed; alone=passed; \
	$(BIN)/python -m pytest -m 'not whole_machine' --numprocesses 2 --dist loadfile || beside=failed; \
	$(BIN)/python -m pytest -m whole_machine || alone=failed; \
	echo "side by side: $$beside; alone: $$alone"; \
	test "$$beside $$alone" = 'passed passed'

check: lint types proto-lint proto-current docs-current ## Check style, types, the wire contract and the reference

lint: $(READY)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

# The tests of the other ends are checked too, so what they import has to be there.
types: $(PEERS_READY)
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

docs: $(READY) ## Generate the reference from the code
	$(BIN)/python docs/generate.py

docs-current: $(READY)
	@$(BIN)/python docs/generate.py --check

bench: $(READY) system-packages ## Measure what a tick costs, beside the alternatives, a restart, a report, and what the store keeps
	$(BIN)/python tests/bench/sampler.py
	$(BIN)/python tests/bench/namespaces.py
	$(BIN)/python tests/bench/recovery.py
	$(BIN)/python tests/bench/ingest.py
	$(BIN)/python tests/bench/store.py

leaklab: $(READY) system-packages ## Score the verdicts against programs that misbehave in known ways
	PYTHONPATH=tests $(BIN)/python -m leaklab.score

lab: $(DEPLOY_READY) system-packages ## Test the services on hosts with systemd, booted on this machine: needs root
	tests/systemd/packages.sh
	cd tests && $(abspath $(BIN))/python -m systemd.lab
	$(BIN)/python -m pytest tests/systemd --ignore tests/systemd/images

images: $(READY) system-packages ## Build the container images, and run them as in Kubernetes: needs root, downloads
	tests/systemd/packages.sh images
	cd tests && $(abspath $(BIN))/python -m systemd.lab
	$(BIN)/python -m pytest tests/systemd/images

peers: $(PEERS_READY) system-packages ## Test with a browser, a mail server, Prometheus and Alertmanager
	tests/peers/packages.sh
	$(BIN)/python -m pytest tests/peers

soak: $(READY) system-packages ## Fuzz with a million inputs, then kill, cut and restart: about 45 minutes
	PYTHONPATH=tests $(BIN)/python -m fuzz.soak
	SOAK=1 $(BIN)/python -m pytest -s tests/e2e/test_delivery.py tests/e2e/test_network_cut.py tests/e2e/test_reconnect.py

deb: $(READY) ## Build the packages of Debian, in dist/
	@deploy/debian/build.sh

wheelhouse: $(READY) ## Build the tarball for hosts without a network, in dist/
	@deploy/wheelhouse/build.sh

rpm: $(READY) ## Build the packages of RPM, in dist/
	@deploy/rpm/build.sh

system-packages:
	@tests/system-packages.sh

clean: ## Remove what the other targets made
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis aggregator/loiter_aggregator/web/static/vendor
