# Everything happens in .venv; nothing else on the machine is touched. PYTHON chooses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help run test check format bench clean

help: ## show this
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

run: $(STAMP) ## set up and start everything, run the example benchmark, keep serving
	@$(BIN)/python -m embedded

test: $(STAMP) ## all tests, with a real RabbitMQ and a real PostgreSQL
	$(BIN)/python -m pytest

check: $(STAMP) ## format, lint, types, imports, the compose file
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m check_jsonschema --builtin-schema vendor.compose-spec compose.yaml

format: $(STAMP) ## put the code into the house's form
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: $(STAMP) ## how fast the service is, as ratios within one run
	$(BIN)/python -m tests.performance

clean: ## remove the environment and the data (root's database lies under /var/lib/llm-bench, and stays)
	rm -rf .venv .local .cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "LLM Bench needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)
