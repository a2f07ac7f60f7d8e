# The two commands a new user needs are `make demo` and `make test`; `make help` lists the rest.
VENV ?= .venv
TESTS ?= tests/system
PYTHON ?= python3
BIN := $(VENV)/bin
RUNS ?= 1000
SEED ?= 1

# System tests wait for two thirds of their time, so three run per core. One process runs all tests of XTTS.
CORES := $(shell getconf _NPROCESSORS_ONLN)
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses
THREE_A_CORE := $(PYTEST) $(shell expr 3 '*' $(CORES))

# uv installs from requirements.lock and checks the hash of each file. A uv on the PATH is preferred to one in $(VENV).
UV := $(or $(shell command -v uv),$(BIN)/uv)
ENVIRONMENT := $(BIN)/python $(filter $(BIN)/uv,$(UV))
INSTALL := $(UV) pip install --python $(BIN)/python --constraint requirements.lock

# Unlike system tests, these tests do not wait: more processes than cores + 1 would make them slower.
UNIT_TESTS := tests/producer tests/worker tests/project --ignore tests/worker/engines/xtts

STYLE := $(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/lint-imports

# The tests start hundreds of processes. Without stored bytecode each of them would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-redis soak lint check docs lock platforms packages bench bench-xtts bench-narration load clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(ENVIRONMENT) ## create .venv (or VENV=folder) with both packages, Piper, XTTS (6 GB) and the test tools
	@$(INSTALL) --editable 'producer[play,books,m4b,pdf,docx,verify,store]' --editable 'worker[demo,xtts-all,metrics]' \
		--requirement tests/requirements.txt

demo: $(ENVIRONMENT) ## speak a passage with Piper through a private Redis and worker; leaves demo.wav
	@$(INSTALL) --editable 'producer[books,m4b]' --editable 'worker[demo]'
	@$(BIN)/voxspool demo -o demo.wav

test: install ## run all tests: unit tests, and system tests with a real server (Valkey) and real workers
	$(THREE_A_CORE) --durations 10

test-redis: install ## run the system tests on another server: SERVER=/path/to/redis-server, or SERVER=oldest
	@test -n "$(SERVER)" || { echo "SERVER is not set: make test-redis SERVER=/usr/bin/redis-server, or SERVER=oldest"; exit 2; }
	REDIS_SERVER="$(SERVER)" $(THREE_A_CORE) $(TESTS)

soak: install ## run RUNS=1000 random fault scenarios on real processes, with seeds from SEED=1; half an hour
	MODEL_RUNS=$(RUNS) MODEL_SEED=$(SEED) $(BIN)/python -m pytest -s tests/system/test_model.py

lint: install ## check style, types and import contracts
	$(STYLE)
	$(BIN)/mypy

check: install ## lint, and run all unit tests except those of XTTS; they also build the site; a minute
	$(STYLE)
	@$(BIN)/mypy & types=$$!; $(PYTEST) $(shell expr $(CORES) + 1) $(UNIT_TESTS); tests=$$?; wait $$types && exit $$tests

docs: install ## build the documentation site into build/docs; a broken link or a missing reference is an error
	$(BIN)/python tools/docs.py

lock: $(ENVIRONMENT) ## update requirements.lock to the newest version of every dependency, for all systems and Pythons
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/dependencies.py lock

platforms: $(ENVIRONMENT) ## show which systems and Pythons can install from the lock with wheels alone, store build/platforms.json
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/dependencies.py platforms --out build/platforms.json

packages: $(ENVIRONMENT) ## build both distributions into dist/ and check their metadata as a package index does
	@$(INSTALL) build twine
	rm -rf dist
	$(BIN)/python -m build --outdir dist producer
	$(BIN)/python -m build --outdir dist worker
	$(BIN)/twine check --strict dist/*

bench: install ## measure speed and memory, also of other servers of Piper, store build/bench.json and build/bench-peers.json
	$(BIN)/python -m benchmarks.bench --out build/bench.json
	$(BIN)/python -m benchmarks.peers --out build/bench-peers.json

bench-xtts: install ## measure XTTS and upstream, store build/bench-xtts.json and .png; a quarter of an hour
	$(BIN)/python -m benchmarks.xtts --out build/bench-xtts.json

bench-narration: install ## measure the narration of a book, store build/bench-narration.json; a quarter of an hour
	$(BIN)/python -m benchmarks.narration --out build/bench-narration.json

load: install ## run a load test (1,000 jobs, 100 readers, a kill -9, a stalled Redis), store build/load.json
	$(BIN)/python -m benchmarks.load --out build/load.json

clean: ## delete everything that the other commands create
	rm -rf $(VENV) build dist demo.wav .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 to 3.14, or set PYTHON=/path/to/python"; exit 2; }
	@echo "creating $(VENV)"
	@if command -v uv >/dev/null; then uv venv --quiet --seed --python $(PYTHON) $(VENV); else $(PYTHON) -m venv $(VENV); fi

$(BIN)/uv: | $(BIN)/python
	@echo "installing uv into $(VENV)"
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock >$(VENV)/uv.txt
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.txt
