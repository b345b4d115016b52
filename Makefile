# `make demo` and `make test` need Python 3.11 or newer and nothing else: they create .venv and install what is pinned in the locks.
# Another build of torch (CUDA, ROCm) is the user's choice: make demo TORCH='torch==2.13.0 --index-url ...'

PYTHON ?= python3
TORCH ?= torch==2.13.0
JOBS ?= 2

BIN := .venv/bin
RUN_STAMP := .venv/installed-run
TEST_STAMP := .venv/installed-test
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

FAULTS := tests/faults tests/study/test_killed.py
TALLY := build/faults.jsonl

.PHONY: demo test test-all test-faults test-gpu lint lock methods-page clean

demo: $(RUN_STAMP)
	$(BIN)/remora demo

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m ""

# Damage, hostile files, kills, full disks in the full form; what it tried goes into docs/reliability.md.
test-faults: $(TEST_STAMP)
	mkdir -p $(dir $(TALLY))
	rm -f $(TALLY)
	REMORA_FAULTS=full REMORA_FAULTS_TALLY=$(CURDIR)/$(TALLY) $(PYTEST) -m faults $(FAULTS)
	$(BIN)/python scripts/reliability_page.py $(TALLY)

# On a machine with a GPU and a torch built for it; elsewhere every test is skipped and says so.
test-gpu: $(TEST_STAMP)
	$(BIN)/python -m pytest -rs -m gpu tests/gpu

lint: $(TEST_STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

lock: $(TEST_STAMP)
	$(BIN)/pip install -qq pip-tools
	$(BIN)/python scripts/lock.py

methods-page: $(TEST_STAMP)
	$(BIN)/python scripts/methods_page.py

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis src/remora.egg-info

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Remora needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# The pinned packages come first so that torch finds its own dependencies among them and adds only itself (and its CUDA libraries).
$(RUN_STAMP): requirements.lock pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -qq --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install -qq $(TORCH)
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	touch $@

$(TEST_STAMP): requirements-test.lock pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -qq --require-hashes --no-deps -r requirements-test.lock
	$(BIN)/python -m pip install -qq $(TORCH)
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	touch $(RUN_STAMP) $@
