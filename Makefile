# The two commands a new user needs are `make demo` and `make test`; `make help` lists the rest.
VENV ?= .venv
TESTS ?= tests/system
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUNS ?= 1000
SEED ?= 1
SOURCES := producer/pyproject.toml worker/pyproject.toml constraints.txt tests/requirements.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-redis rq-suite soak check bench bench-xtts bench-narration load clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 18

install: $(VENV)/.tests ## make .venv (or VENV=elsewhere) with everything: both packages, Piper, XTTS (6 GB), test tools

demo: $(VENV)/.demo ## speak a passage with Piper through a private Redis and worker; leaves demo.wav
	@$(BIN)/voxspool demo -o demo.wav

test: $(VENV)/.tests ## all tests: unit, and system on a real redis-server and real workers
	$(BIN)/python -m pytest

test-redis: $(VENV)/.tests ## the system tests on another server: make test-redis SERVER=/path/to/redis-server
	@test -n "$(SERVER)" || { echo "say which server: make test-redis SERVER=/usr/bin/valkey-server"; exit 2; }
	REDIS_SERVER="$(SERVER)" $(BIN)/python -m pytest $(TESTS)

rq-suite: $(VENV)/.tests ## RQ's own tests of workers, run against ours
	$(BIN)/python tests/rq_suite/run.py

soak: $(VENV)/.tests ## RUNS=1000 random runs of faults on real processes, from SEED=1 on; half an hour
	MODEL_RUNS=$(RUNS) MODEL_SEED=$(SEED) $(BIN)/python -m pytest -s tests/system/test_model.py

check: $(VENV)/.tests ## lint, types, import contracts and unit tests but those of XTTS, two minutes
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/producer tests/worker --ignore tests/worker/xtts

bench: $(VENV)/.tests ## measure, print a table, store build/bench.json
	$(BIN)/python benchmarks/bench.py --out build/bench.json

bench-xtts: $(VENV)/.tests ## measure XTTS beside upstream, store build/bench-xtts.json and .png; a quarter of an hour
	$(BIN)/python benchmarks/xtts.py --out build/bench-xtts.json

bench-narration: $(VENV)/.tests ## measure the narration of a book, store build/bench-narration.json; a quarter of an hour
	$(BIN)/python benchmarks/narration.py --out build/bench-narration.json

load: $(VENV)/.tests ## 1,000 jobs, 100 readers, a kill -9, a stalled Redis: print a table, store build/load.json
	$(BIN)/python benchmarks/load.py --out build/load.json

clean: ## remove what the other commands made
	rm -rf $(VENV) build demo.wav .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(SOURCES)
	@echo "installing what the demo needs into $(VENV)"
	$(PIP) --editable 'producer[books,m4b]' --editable 'worker[demo]'
	@touch $@

$(VENV)/.tests: $(VENV)/.demo
	@echo "installing what the tests need into $(VENV)"
	$(PIP) --editable 'producer[books,m4b,pdf,docx,verify,store]' --editable 'worker[xtts,metrics]' --requirement tests/requirements.txt
	@touch $@
