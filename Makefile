# Everything a newcomer needs: `make demo` and `make test`. Run as root on Debian 12.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PACKAGES := $(shell sed -e "s/\#.*//" .ci/packages.txt)

.PHONY: help setup demo test lint test-fast bench test-regress clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install Debian packages and the virtual environment (hashed lock)

$(STAMP): .ci/requirements.lock .ci/packages.txt pyproject.toml
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "Installing Debian packages:" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi
	@test -x $(PYTHON) || /usr/bin/python3 -m venv $(VENV)
	@echo "Installing Python packages from .ci/requirements.lock"
	@$(PYTHON) -m pip install -q --disable-pip-version-check --require-hashes -r .ci/requirements.lock
	@$(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## The main job on real input: one governed PostgreSQL session, told step by step
	@$(PYTHON) -m tests.demo

test: setup lint ## All tests (needs root: real namespaces, a real PostgreSQL)
	@$(PYTHON) -m pytest

test-fast: setup ## The pure floors only: seconds, no root
	@$(PYTHON) -m pytest tests/wire tests/sql tests/policy tests/mask tests/identity tests/approval tests/gate tests/journal tests/ipc tests/documents

lint: setup ## ruff, mypy strict, layering contracts
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench: setup ## Ratios against direct, a bare forwarder and pgbouncer
	@$(PYTHON) -m bench

test-regress: setup ## PostgreSQL's own regression suite through the proxy, compared with direct
	@$(PYTHON) -m tests.regress

lock: ## Recompute .ci/requirements.lock from pyproject.toml
	@$(PYTHON) -m pip install -q uv
	@$(VENV)/bin/uv pip compile -q --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url \
	  --no-annotate --extra dev pyproject.toml -o .ci/requirements.lock

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
