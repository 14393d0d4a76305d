# Everything starts here: `make repro` does the main job, `make test` the tests. The first call sets up .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 5000
export PATH := $(abspath $(BIN)):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := true
# one server process instead of fifteen
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false

.PHONY: repro test test-slow ui flow compare stale lint audit
.DEFAULT_GOAL := repro

repro: $(VENV)/.ready ## the whole pipeline; only what is out of date runs
	@git rev-parse --git-dir > /dev/null 2>&1 || { echo "DVC needs a git repository: git init && git add -A && git commit -m start"; exit 1; }
	dvc --wait-for-lock repro
	@echo "Look at outputs/report/index.html, or at the runs: make ui"

test: $(VENV)/.ready ## the tests, without the slow ones
	pytest

test-slow: $(VENV)/.ready ## the slow tests: whole pipelines, servers, workers
	pytest -m slow

ui: $(VENV)/.ready ## MLflow on http://127.0.0.1:$(PORT)
	@python -c "import socket; socket.create_server(('127.0.0.1', $(PORT)))" 2> /dev/null || \
		{ echo "port $(PORT) is taken; choose another: make ui PORT=5001"; exit 1; }
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(PORT) --workers 1

flow: $(VENV)/.ready ## the pipeline as a Prefect flow
	python -m flows.pipeline

compare: $(VENV)/.ready ## sampling strategies side by side, as a Prefect flow: an hour or more
	python -m flows.compare

stale: $(VENV)/.ready ## notes at the top of the studies' pages whose results are older than the code
	python -m studies.stale

lint: $(VENV)/.ready ## ruff
	ruff check .
	ruff format --check .

audit: ## known vulnerabilities of the pinned packages; skipped where the list of them cannot be reached
	@$(PYTHON) .ci/audit.py constraints.txt $(VENV)-audit

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
