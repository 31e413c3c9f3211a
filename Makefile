# Two commands on a bare machine: `make compare` and `make test`. Everything else is listed by `make help`.
VENV ?= .venv
BIN = $(VENV)/bin
PART ?= adapter
BROKER ?= kafka
JOBS ?= 3
# Packages come uncompiled. Where the environment forbids to keep what is compiled, each of hundreds of processes would
# compile them all again (2.5 s each, seen).
export PYTHONDONTWRITEBYTECODE =

.PHONY: help setup lint test test-long compare bench up status down doctor lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup:  ## make $(VENV) from the lock and fetch the services; does nothing when up to date
	@VENV=$(VENV) scripts/setup

lint: setup  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Most tests wait for a broker, not for the processor: more test processes than cores.
test: lint  ## lint and every test but the long ones
	$(BIN)/python -m pytest tests -m "not long" -n $(JOBS) --no-loadscope-reorder

test-long: setup  ## soak, many schedules, original durations: reports/test-long.md; some: PARTS="soak scenarios schedules rest"
	$(BIN)/python scripts/long_tests.py $(PARTS)

compare: setup  ## the quick comparison of both brokers, with a report
	$(BIN)/testbed compare --quick

bench: setup  ## one part against its baseline: PART=adapter|relay|inbox|api|history BROKER=kafka|rabbitmq; PART=proxy
	$(BIN)/testbed bench $(PART) $(if $(filter proxy,$(PART)),,--broker $(BROKER))

up: setup  ## start real services and leave them running
	$(BIN)/testbed up --broker both

status: setup  ## show them
	$(BIN)/testbed status

down: setup  ## stop them
	$(BIN)/testbed down

doctor: setup  ## what this machine has and lacks
	$(BIN)/testbed doctor

lock:  ## write requirements.lock anew from pyproject.toml
	@scripts/lock

clean:  ## remove what was made in this folder; the cache of services stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
