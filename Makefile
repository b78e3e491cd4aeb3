# Everything a newcomer needs: `make demo` and `make test`. Run as root on Debian 12.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TESTS_STAMP := $(VENV)/.installed-tests
VM_STAMP := $(VENV)/.installed-vm
VAGRANT_STAMP := $(VENV)/.installed-vagrant
KUBERNETES_STAMP := $(VENV)/.installed-kubernetes
BENCH_STAMP := $(VENV)/.installed-bench

.PHONY: help setup setup-tests setup-vm demo test bypass lint test-fast test-compiled bench bench-quick bench-http setup-bench test-regress test-vm test-vagrant setup-vagrant test-kubernetes setup-kubernetes deb test-package lifecycle lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install what is missing: Debian packages, a virtual environment from a hashed lock

$(STAMP): .ci/setup .ci/requirements.lock .ci/packages.txt pyproject.toml
	@.ci/setup
	@touch $@

setup-tests: $(TESTS_STAMP) ## The same for the tests and the bench: node's drivers, pgbouncer

$(TESTS_STAMP): $(STAMP) .ci/setup .ci/packages-tests.txt tests/e2e/clients/node/package-lock.json
	@.ci/setup tests
	@touch $@

setup-vm: $(VM_STAMP) ## What the virtual machine needs: qemu and what builds its disk

$(VM_STAMP): $(STAMP) .ci/setup .ci/packages-vm.txt
	@.ci/setup vm
	@touch $@

setup-vagrant: $(VAGRANT_STAMP) ## What the Vagrantfile is tested with: Vagrant, libvirt, what builds a box

$(VAGRANT_STAMP): $(VM_STAMP) .ci/setup .ci/packages-vagrant.txt
	@.ci/setup vagrant
	@touch $@

setup-kubernetes: $(KUBERNETES_STAMP) ## What builds the API server of make test-kubernetes

$(KUBERNETES_STAMP): $(STAMP) .ci/setup .ci/packages-kubernetes.txt
	@.ci/setup kubernetes
	@touch $@

setup-bench: $(BENCH_STAMP) ## What make bench-http compares with and loads by: haproxy, wrk, h2load

$(BENCH_STAMP): $(TESTS_STAMP) .ci/setup .ci/packages-bench.txt
	@.ci/setup bench
	@touch $@

demo: setup ## The main job on real input: one governed PostgreSQL session, told step by step
	@$(PYTHON) -m tests.demo

test: setup-tests lint ## All tests, in lanes beside each other (needs root: real namespaces, a real PostgreSQL)
	@$(PYTHON) -m tests.lanes

bypass: setup-tests ## The ways out, each tried by a hostile workload, and the table of tests/bypass (BPF=off: without eBPF; FIREWALL=iptables: without nftables)
	@HOSTAGENT_BYPASS_BPF=$(BPF) HOSTAGENT_TEST_FIREWALL=$(or $(FIREWALL),auto) $(PYTHON) -m tests.bypass

test-fast: setup ## The pure floors only, against a real PostgreSQL as their oracle: a minute, no root
	@$(PYTHON) -m pytest tests/wire tests/ipc tests/journal tests/sql tests/documents tests/inspectors tests/policy tests/mask \
	  tests/identity tests/approval tests/gate

test-compiled: setup-tests ## The hot floors' tests against the package as it is built with HOSTAGENT_COMPILE=1 (TESTS: others)
	@$(PYTHON) -m bench.compiled --test $(TESTS)

lint: setup ## ruff, mypy strict, layering contracts
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench: setup-tests ## Ratios against direct, a bare forwarder and pgbouncer
	@$(PYTHON) -m bench

bench-quick: setup-tests ## The same in a minute, for a look and for continuous integration; keeps no results
	@$(PYTHON) -m bench --quick

bench-http: setup-bench ## HTTP and TLS against direct, haproxy and mitmproxy (QUICK=--quick: two minutes, keeps no results)
	@$(PYTHON) -m bench.http $(QUICK)

lifecycle: setup-tests ## No leak under load: 1000 reloads, restarts, crashes, flushes, a full connection table; prints the figures
	@$(PYTHON) -m tests.lifecycle

test-regress: setup-tests ## PostgreSQL's own regression suite through the proxy, compared with direct
	@$(PYTHON) -m tests.regress

test-vm: setup-vm ## The boundary on Debian's own kernel with systemd, in a virtual machine without a network
	@$(PYTHON) -m tests.vm $(VM)

deb: setup ## The Debian package, in build/deb: reproducible; hot floors compiled where a C compiler and Python's headers are
	@$(PYTHON) packaging/deb/build.py

test-package: setup-vm ## The Debian package in a fresh chroot without a network: install, govern, upgrade, purge, nothing left
	@$(PYTHON) -m tests.package

test-kubernetes: setup-kubernetes ## A real kube-apiserver with etcd as the target, real kubectls as workloads (TESTS: pytest's words)
	@$(PYTHON) -m tests.kubernetes $(TESTS)

test-vagrant: setup-vagrant deb ## The story of vagrant/README.md as written: two machines through libvirt
	@$(PYTHON) -m tests.vagrant

lock: setup ## Recompute .ci/requirements.lock from pyproject.toml
	@$(PYTHON) -m pip install -q uv
	@$(VENV)/bin/uv pip compile -q --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url \
	  --no-annotate --extra dev pyproject.toml -o .ci/requirements.lock

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
