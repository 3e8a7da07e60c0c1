# Works on a fresh Debian 12 (Python 3.11, apt; as root or with sudo) and wherever uv and Python 3.11 or 3.12 are.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
# Where it really is: uv takes a shim for another interpreter than the one it leads to, and makes .venv anew each time.
PYTHON := $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; (3, 11) <= sys.version_info < (3, 13) or sys.exit(1); print(sys.executable)' 2>/dev/null && break; done)
# uv.lock was made with options that older versions do not know.
UV_MIN := 0.9
UV = $(shell for u in uv .uv/bin/uv; do v=$$($$u --version 2>/dev/null | cut -d' ' -f2) \
	&& [ "$$(printf '%s\n' $(UV_MIN) "$$v" | sort -V | head -n1)" = $(UV_MIN) ] && command -v $$u && break; done)
# What the Slurm test bed needs, of Debian's own packages.
SLURM_PACKAGES := slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core mysql-common \
	slurm-wlm-basic-plugins slurm-wlm-mysql-plugin
# What the Kubernetes test bed needs beside the program that it compiles.
K8S_PACKAGES := containerd runc containernetworking-plugins busybox-static iproute2 openssl
# What builds images, and runs them without an engine.
IMAGE_PACKAGES := buildah runc skopeo umoci mmdebstrap docker-registry ca-certificates
# What opens the report's page in the tests.
BROWSER_PACKAGES := chromium chromium-driver
APT_INSTALL := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
PYTEST := $(BIN)/python -m pytest

.PHONY: help setup demo test test-fast lint golden schemas fidelity client images requirements uv testbed testbed-k8s k8s-packages k8s-begin

help: ## Show the targets.
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

uv:
	@[ -n "$(PYTHON)" ] || { echo "openrs needs Python 3.11 or 3.12 (Debian 12: apt-get install python3)" >&2; exit 1; }
	@if [ -z "$(UV)" ]; then \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
			|| { $(SUDO) apt-get update -qq && $(APT_INSTALL) python3-venv; }; \
		$(PYTHON) -m venv .uv; \
		.uv/bin/pip install --quiet --disable-pip-version-check 'uv>=$(UV_MIN)'; \
	fi

# --inexact keeps what a developer has added.
setup: uv ## Everything to train on this machine and to develop, into .venv.
	$(UV) sync --python $(PYTHON) --locked --inexact --extra train --extra eval --extra vllm --extra wandb --extra dev

demo: uv ## Train the smoke experiment on this machine and show what it learned.
	$(UV) sync --python $(PYTHON) --locked --inexact --extra train
	$(BIN)/openrs submit --cluster local smoke --watch

# $(call apt,PACKAGES) installs those that are missing.
define apt
@for package in $(1); do \
	dpkg-query -W -f '$${Status}\n' $$package 2>/dev/null | grep -q '^install ok installed' || missing+=" $$package"; \
done; \
if [ -n "$${missing:-}" ]; then $(SUDO) apt-get update -qq && $(APT_INSTALL) $$missing; fi
endef

testbed:
	$(call apt,$(SLURM_PACKAGES) $(BROWSER_PACKAGES) $(IMAGE_PACKAGES))

client: uv ## The light base install, into .venv.
	$(UV) sync --python $(PYTHON) --locked

images: setup ## Build cli and smoke twice, compare digests, push to a registry on this machine, run by digest: ten minutes.
	$(call apt,$(IMAGE_PACKAGES))
	$(SUDO) $(BIN)/python -m tests.images

requirements: uv ## What each image installs, out of uv.lock.
	UV=$(UV) $(BIN)/python -m openrs.images.requirements

k8s-packages:
	$(call apt,$(K8S_PACKAGES))

testbed-k8s: k8s-packages uv ## Compile Kubernetes for its test bed: minutes, once a machine.
	$(SUDO) $(PYTHON) -m tests.testbed.k8s build

# In the background from the very beginning: whoever needs it waits for it, and shows the end of build.log when it failed.
k8s-begin: k8s-packages uv
	@$(SUDO) $(PYTHON) -m tests.testbed.k8s build > /dev/null 2>&1 &

lint: ## Style, formatting and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: k8s-begin setup testbed lint ## All tests, with a real Slurm and a real Kubernetes on this machine.
	$(SUDO) env OPENRS_REQUIRE_TESTBED=1 OPENRS_REQUIRE_BROWSER=1 $(PYTEST) -n 2 --dist loadfile

test-fast: ## What needs no daemon and no training, in a minute or two.
	$(PYTEST) -n 2 --dist loadfile -m "not slurm and not k8s and not train and not slow"

golden: ## Regenerate the golden files of the engines, to be read as a diff.
	OPENRS_UPDATE_GOLDEN=1 $(PYTEST) tests/engines -k golden
	git --no-pager diff --stat -- tests/golden

schemas: ## Regenerate the JSON Schemas that editors use.
	for kind in experiment cluster; do $(BIN)/openrs schema $$kind > openrs/spec/$$kind.schema.json; done

fidelity: ## Regenerate docs/fidelity.md: what the paper says, what shipped, what is corrected.
	$(BIN)/python -m openrs.report.fidelity > docs/fidelity.md
