# `make` lists the targets. Every one of them works from a bare clone.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY := .venv/bin/python
STAMP := .venv/.animus-inputs
DISTS := gen/python kit $(wildcard services/*) gateway clients/python cli
# What a target needs of the machine: all that is missing is told at once.
NEEDS := demo
READY = status=0; scripts/system-packages $(NEEDS) || status=$$?; scripts/check-machine || status=$$?; [ $$status -eq 0 ] || exit $$status
# Tests: two workers, as many as the smallest machine has cores.
WORKERS ?= 2
ARGS ?=

.PHONY: help setup gen gen-check lint format proto-breaking test check demo demo-smoke demo-down escape chaos bench clean

help: ## list the targets
	@echo 'Animus: what runs may run, isolated, recorded, provable.'
	@echo
	@echo 'usage: make TARGET [ARGS="..."]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(STAMP): scripts/bootstrap constraints.txt pyproject.toml $(wildcard $(addsuffix /pyproject.toml,$(DISTS)))
	@scripts/bootstrap

setup: $(STAMP) ## make .venv with every distribution, editable, at pinned versions

gen: setup ## write gen/python from proto/
	@scripts/gen

gen-check: setup ## fail when gen/python is not what proto/ generates
	@scripts/gen-check

lint: setup ## ruff, buf lint, import layers, repository rules
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/buf lint
	@$(PY) -m pytest -q tests/test_layers.py tests/test_repository.py

format: setup ## let ruff and buf rewrite what they can
	@.venv/bin/ruff check --fix
	@.venv/bin/ruff format
	@.venv/bin/buf format --write --path proto/animus

proto-breaking: setup ## fail when proto/ breaks clients of the last release or commit
	@scripts/proto-breaking

test: setup ## run the tests; the last lines count what was skipped, and why (ARGS go to pytest)
	@scripts/system-packages --warn test
	@scripts/rooted $(PY) -m pytest -n $(WORKERS) $(ARGS)

check: lint gen-check proto-breaking test ## what continuous integration runs

demo: setup ## train on the handwritten digits: a local stack, one real pipeline, its lineage and its audit events
	@$(READY)
	@scripts/rooted $(PY) -m examples.digits.demo $(ARGS)

demo-smoke: setup ## the demo in its short form: two busybox steps instead of training
	@$(READY)
	@scripts/rooted $(PY) -m examples.digits.demo --smoke $(ARGS)

demo-down: setup ## end a demo stack that was left running
	@scripts/rooted $(PY) -m examples.digits.demo --down $(ARGS)

escape: setup ## steps that try to get out, one container each; ends with a table of what stopped them and where it is recorded
	@$(READY)
	@ANIMUS_ESCAPE_TABLE=1 scripts/rooted $(PY) -m pytest -q tests/escape $(ARGS)

chaos: NEEDS := chaos
chaos: setup ## 200 runs on three nodes while everything is killed, cut and confused; a million transitions; 10 minutes
	@$(READY)
	@scripts/chaos $(ARGS)

bench: setup ## measure, beside the raw floor of this machine
	@$(READY)
	@scripts/rooted $(PY) -m bench $(ARGS)

clean: ## remove what the targets above left in the tree, and .venv
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis out build
