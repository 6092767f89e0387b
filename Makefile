# `make demo` and `make test` need Python 3.11 to 3.14, make and git; they install the rest into $(VENV).

PYTHON ?= python3.11
VENV   ?= .venv
DOCS   ?= examples/corpus
Q      ?=
PYTEST_ARGS ?=
WORKERS ?= 3

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
READY  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev
MODEL  := $(VENV)/.ready-model

.DELETE_ON_ERROR:
.PHONY: help venv dev engine model demo test test-slow lint clean

help:
	@echo 'make demo       research a question over $(DOCS) with a small real model'
	@echo '                other questions and documents: make demo Q="..." DOCS=folder'
	@echo 'make test       all checks and tests; those without an engine in WORKERS=3 processes'
	@echo 'make test-slow  also the tests that take minutes'
	@echo 'make test-versions  the contract with every supported version of vLLM'
	@echo 'make test-servers   model servers of other projects, each started and asked'
	@echo 'make lint       ruff and mypy only'
	@echo 'make venv       the virtual environment ($(VENV)) with the package'
	@echo 'make engine     the inference engine, for a machine without a GPU'
	@echo 'make model      the small demo model'
	@echo 'make clean      remove the environment and all caches of the source tree'

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: $(PYTHON) is not here. Name another Python (3.11 to 3.14): make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@touch $@

$(DEV): pyproject.toml $(READY)
	$(PIP) install --editable '.[dev]'
	@touch $@

venv: $(READY)

dev: $(DEV)

engine: $(READY)
	@$(BIN)/python -m agentinfer_lg.serving.engine.install

# After the engine: these packages depend on torch, and alone would bring one for GPUs, several GB larger.
$(MODEL): pyproject.toml | engine
	$(PIP) install --editable '.[demo]'
	@touch $@

model: engine $(MODEL)
	@$(BIN)/python -m agentinfer_lg.serving.engine.demo_model

# Exit code 4: a report was written although something ran out; with this model that is the turns.
demo: model
	@$(BIN)/python -m agentinfer_lg.cli demo --docs '$(subst ','\'',$(value DOCS))' -- '$(subst ','\'',$(value Q))' \
		|| [ $$? -eq 4 ]

# Where no engine can be installed (macOS, for instance), its tests skip and say so; a failed install is an error.
test-engine: $(DEV)
	@if reason=$$($(BIN)/python -m agentinfer_lg.serving.engine.install --supported); then \
		$(MAKE) --no-print-directory model; \
	else \
		echo "note: tests with a real engine will be skipped: $$reason"; \
	fi
.PHONY: test-engine

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests with a real engine have the machine to themselves. Exit code 5: PYTEST_ARGS chose none of one kind.
test: $(DEV) lint test-engine
	$(BIN)/pytest -n $(WORKERS) -m 'not slow and not engine' $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(BIN)/pytest -m 'engine and not slow' $(PYTEST_ARGS) || [ $$? -eq 5 ]

test-slow: $(DEV) lint test-engine
	$(BIN)/pytest $(PYTEST_ARGS)

# Each version in a virtual environment of its own; downloads 1.5 GB.
test-versions: $(DEV) test-engine
	$(BIN)/pytest tests/serving/compat/test_vllm_versions.py -m 'slow or not slow' $(PYTEST_ARGS)
.PHONY: test-versions

# Each server in a virtual environment of its own, in the user's cache; the first run compiles one of them.
test-servers: $(DEV) test-engine
	$(BIN)/pytest tests/llm/servers -m 'slow or not slow' $(PYTEST_ARGS)
.PHONY: test-servers

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .langgraph_api *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
