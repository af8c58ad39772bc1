# `make` lists the targets. `make demo` and `make test` do all their own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATASTORE ?= embedded
ROUTING ?= direct
PYTEST_ARGS ?=
ROUNDS ?= 20

.PHONY: help demo test lint types unit e2e bench soak lock clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/run.done ## a three-host cluster in two minutes (DATASTORE=etcd ROUTING=bgp for the same over etcd and BIRD)
	@scripts/packages demo $(DATASTORE) $(ROUTING)
	@$(BIN)/tortie demo --datastore $(DATASTORE) --routing $(ROUTING)

test: $(VENV)/test.done ## lint, types, contracts and every test
	@scripts/packages test
	@scripts/kubernetes >/dev/null
	@scripts/neutron >/dev/null
	@scripts/cnitool >/dev/null
	@$(MAKE) --no-print-directory lint types
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(VENV)/test.done ## ruff, codespell and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-cache

types: $(VENV)/test.done ## mypy --strict
	$(BIN)/mypy

unit: $(VENV)/test.done ## the tests that need neither root nor a server
	$(BIN)/pytest tests/unit tests/graph tests/property $(PYTEST_ARGS)

e2e: $(VENV)/test.done ## clusters in the lab, over embedded and direct, and over etcd and BGP
	@scripts/packages test
	$(BIN)/pytest tests/e2e $(PYTEST_ARGS)

soak: $(VENV)/test.done ## random histories, policies and faults, again and again (ROUNDS=20)
	@scripts/packages test
	TORTIE_RANDOM=1 TORTIE_FLUSH_SECONDS=300 \
	    $(BIN)/pytest tests/soak tests/faults/test_lab_flushes.py $(PYTEST_ARGS)
	TORTIE_IPAM_STORM=32,10000 $(BIN)/pytest tests/property/test_ipam_cluster.py $(PYTEST_ARGS)
	for round in $$(seq $(ROUNDS)); do \
	    TORTIE_RANDOM=$$round $(BIN)/pytest tests/property tests/graph tests/oracle tests/faults tests/netns \
	        --hypothesis-seed=$$round $(PYTEST_ARGS) || exit 1; \
	done

bench: $(VENV)/test.done ## measure; prints a table and JSON
	@scripts/packages test
	$(BIN)/python -m benchmarks

lock: ## pin the dependencies anew (needs uv)
	scripts/lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis

$(VENV)/run.done: requirements/run.txt pyproject.toml scripts/venv
	@scripts/venv $(PYTHON) $(VENV) run

$(VENV)/test.done: requirements/test.txt pyproject.toml scripts/venv
	@scripts/venv $(PYTHON) $(VENV) test
