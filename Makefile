# Two commands for people: `make demo` and `make test`.  Both set up what they need first.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test test-kernel check lint unit bench clean lock

PYTHON := .venv/bin/python

help:            ## this list
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup:           ## system packages, Python environment, the page's JavaScript
	@scripts/setup

setup-test:
	@scripts/setup test

demo: setup      ## browsers call a VoLTE phone and are called back, over both paths, in a lab on this machine
	$(PYTHON) -m imsbridge demo

test: setup-test   ## everything CI runs: linters, unit, interoperability and end-to-end tests
	$(MAKE) lint
	$(PYTHON) scripts/run_tests.py
	$(PYTHON) scripts/run_tests.py tests/e2e -m e2e
	$(PYTHON) tests/kernel/run.py

test-kernel: setup-test   ## IPsec of the Linux kernel, in user-mode Linux
	$(PYTHON) tests/kernel/run.py

check: setup-test   ## linters and unit tests only
	$(MAKE) lint
	$(PYTHON) -m pytest -m 'not e2e and not interop and not slow'

lint:            ## ruff, mypy, import linter
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup-test   ## the figures of bench/README.md, beside coturn, rtpengine and dnsmasq
	$(PYTHON) -m bench

lock:            ## renew requirements.lock from pyproject.toml
	.tools/bin/uv pip compile pyproject.toml --extra lab --extra edge --group dev --universal --python-version 3.12 \
	  --generate-hashes --no-header --no-annotate --upgrade --quiet -o requirements.lock

clean:           ## remove what setup made
	rm -rf .venv .tools node_modules out
