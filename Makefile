# Works on a fresh Debian 12 (Python 3.11, apt; as root or with sudo) and wherever uv and Python 3.11 or 3.12 are.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
PYTHON := $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && command -v $$p && break; done)
# uv.lock was made with options that older versions do not know.
UV_MIN := 0.9
UV = $(shell for u in uv $(BIN)/uv; do v=$$($$u --version 2>/dev/null | cut -d' ' -f2) \
	&& [ "$$(printf '%s\n' $(UV_MIN) "$$v" | sort -V | head -n1)" = $(UV_MIN) ] && command -v $$u && break; done)
# What the Slurm test bed needs, of Debian's own packages.
SLURM_PACKAGES := slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core mysql-common \
	slurm-wlm-basic-plugins slurm-wlm-mysql-plugin
APT_INSTALL := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
PYTEST := $(BIN)/python -m pytest

.PHONY: help setup demo test test-fast lint golden schemas uv testbed

help: ## Show the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

uv:
	@[ -n "$(PYTHON)" ] || { echo "openrs needs Python 3.11 or 3.12 (Debian 12: apt-get install python3)" >&2; exit 1; }
	@if [ -z "$(UV)" ]; then \
		if [ ! -x $(BIN)/pip ]; then \
			$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
				|| { $(SUDO) apt-get update -qq && $(APT_INSTALL) python3-venv; }; \
			$(PYTHON) -m venv .venv; \
		fi; \
		$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=$(UV_MIN)'; \
	fi

# --inexact keeps the uv that was installed there.
setup: uv ## Everything to train on this machine and to develop, into .venv.
	$(UV) sync --python $(PYTHON) --locked --inexact --extra train --extra dev

demo: uv ## Train the smoke experiment on this machine and show what it learned.
	$(UV) sync --python $(PYTHON) --locked --inexact --extra train
	$(BIN)/openrs submit --cluster local smoke --watch

testbed:
	@for package in $(SLURM_PACKAGES); do \
		dpkg-query -W -f '$${Status}\n' $$package 2>/dev/null | grep -q '^install ok installed' || missing+=" $$package"; \
	done; \
	if [ -n "$${missing:-}" ]; then $(SUDO) apt-get update -qq && $(APT_INSTALL) $$missing; fi

lint: ## Style, formatting and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: setup testbed lint ## All tests, with a real Slurm on this machine.
	$(SUDO) env OPENRS_REQUIRE_TESTBED=1 $(PYTEST) -n 2 --dist loadfile

test-fast: ## What needs no daemon and no training, in a minute or two.
	$(PYTEST) -n 2 --dist loadfile -m "not slurm and not train and not slow"

golden: ## Regenerate the golden files of the engines, to be read as a diff.
	OPENRS_UPDATE_GOLDEN=1 $(PYTEST) tests/engines -k golden
	git --no-pager diff --stat -- tests/golden

schemas: ## Regenerate the JSON Schemas that editors use.
	for kind in experiment cluster; do $(BIN)/openrs schema $$kind > openrs/spec/$$kind.schema.json; done
