# Everything runs in .venv, which the first target makes from the hashed lock.
.PHONY: chat setup test lint bench lock clean
BIN := .venv/bin

chat: setup  ## set everything up and open the chat page
	@$(BIN)/serve up --page

setup:
	@requirements/install.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint  ## lint, types, import rules, unit tests, and the real vLLM
	$(BIN)/pytest

bench: setup  ## start-up time against plain vLLM, then replies and latency through the gateway
	$(BIN)/python bench/start.py
	$(BIN)/python bench/replies.py

lock:
	requirements/lock.sh

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
