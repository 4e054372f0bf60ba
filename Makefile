# Everything runs in virtual environments that this makes itself; all it needs is Python 3.11 or newer.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
ifeq ($(PYTHON),)
$(error No Python 3.11 or newer was found; name one: make PYTHON=/path/to/python)
endif

CHECKED := fastapi_httpx_pool benchmarks example_app matrix tests scripts docs conftest.py

.PHONY: help demo test bench conformance check format constraints clean

help:
	@echo "make demo         install what is needed and run the example app"
	@echo "make test         install what is needed and run all tests"
	@echo "make bench        compare with httpx, aiohttp and others; in three minutes"
	@echo "make conformance  ask this and other proxies which rules they keep; in ten minutes"
	@echo "make check        format, lint, types, layers, docs"
	@echo "make format       let ruff rewrite the files"
	@echo "make constraints  pin the newest versions of everything"
	@echo "make clean        remove the environments"

demo:
	@$(PYTHON) scripts/environment.py .venv-demo example
	@exec .venv-demo/bin/python -m example_app $(ARGS)

test:
	@$(PYTHON) scripts/test.py $(ARGS)

bench:
	@$(PYTHON) scripts/environment.py .venv-bench bench
	@exec .venv-bench/bin/python -m benchmarks $(ARGS)

conformance:
	@$(PYTHON) scripts/environment.py .venv-conformance conformance
	@exec .venv-conformance/bin/python -m matrix $(ARGS)

.venv-check: pyproject.toml constraints.txt
	@$(PYTHON) scripts/environment.py .venv-check example test families bench conformance check
	@touch .venv-check

check: .venv-check
	.venv-check/bin/ruff format --check $(CHECKED)
	.venv-check/bin/ruff check $(CHECKED)
	.venv-check/bin/lint-imports
	.venv-check/bin/mypy
	PATH="$(CURDIR)/.venv-check/bin:$$PATH" pyright --ignoreexternal --verifytypes fastapi_httpx_pool
	PATH="$(CURDIR)/.venv-check/bin:$$PATH" pyright fastapi_httpx_pool tests/typing
	.venv-check/bin/python -m pytest --quiet README.md docs tests/test_docs.py

format: .venv-check
	.venv-check/bin/ruff format $(CHECKED)
	.venv-check/bin/ruff check --fix $(CHECKED)

# Needs uv; every version there is, for every Python at once, and no addresses.
constraints:
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header --upgrade \
		--all-extras --group bench --group build --group check --group conformance --group example --group families --group test \
		--output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .venv-* .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
