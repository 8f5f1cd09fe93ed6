# What people and CI run; everything happens in the Python that `python` names.
.PHONY: check test quick check-all docs wheel
DIST ?= dist

check: ## lint, format, types
	ruff check .
	ruff format --check .
	mypy

test: ## what the README says: under ten minutes on two cores
	python -m pytest -q

quick: ## the rules alone, without models: seconds
	python -m pytest -q -m "not slow and not venv" tests/test_layers.py tests/kernel tests/ratios tests/search

check-all: check ## everything, the kills and the matrix of models too: under 45 minutes
	python -m pytest -q -m "full or not full"

docs: ## write again what is generated: README's tables, docs/models.md
	python -m tests.test_docs

wheel: ## build the wheel into dist/
	python -m build --wheel --no-isolation --outdir $(DIST) . >/dev/null
