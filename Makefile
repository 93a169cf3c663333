# make help lists the targets. Everything runs in .venv, which the first target makes.

PYTHON ?= python3
# cuda (driver 580 or newer), cuda12 (older drivers) or tpu: the accelerator build of JAX. Empty: CPU.
JAX_EXTRA ?=
# One exact version of JAX, for example 0.10.2. Empty: the newest that requirements.txt allows.
JAX_VERSION ?=

# glibc hands large buffers back to the kernel after every operation; keeping them spares the page faults (a training step
# went from 154 to 122 ms in one measurement; forward passes of 300 images and more gained nothing).
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 4294967296

VENV := .venv
BIN := $(VENV)/bin
comma := ,
EXTRAS := dev$(addprefix $(comma),$(JAX_EXTRA))
STAMP := $(VENV)/.installed$(addprefix -,$(JAX_EXTRA))$(addprefix -jax-,$(JAX_VERSION))

.DEFAULT_GOAL := help
.PHONY: help ablation test test-all test-browser test-oracles test-documents mistakes tpu-check check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo "Variables: PYTHON=$(PYTHON), JAX_EXTRA=cuda|cuda12|tpu, JAX_VERSION=0.10.2"

ablation: $(STAMP)  ## train on digits and compare the reverse variances; the report goes to runs/digits
	$(BIN)/python -m experiments.variance_ablation --workdir runs/digits

test: $(STAMP)  ## the tests, without the slow ones
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(STAMP)  ## all the tests; those of the page need Chromium and its driver
	$(BIN)/python -m pytest -n auto --dist loadfile -m ""

test-browser: $(STAMP)  ## the tests of the page in headless Chromium
	$(BIN)/python -m pytest -m browser

test-documents: $(STAMP)  ## the commands and lines of README and docs
	$(BIN)/python -m pytest tests/cli/test_documents.py -m "not oracle"

mistakes: $(STAMP)  ## seed mistakes one at a time and see that the tests catch each; minutes
	$(BIN)/python -m tests.mistakes

# An environment of its own: PyTorch is half a GiB, and only these tests need it.
test-oracles:  ## compare with PyTorch, diffusers and kubernetes themselves; installs them into .venv-oracles
	@$(MAKE) --no-print-directory VENV=.venv-oracles JAX_EXTRA=oracles .venv-oracles/.installed-oracles
	.venv-oracles/bin/python -m pytest -m oracle

# An environment of its own: with libtpu in it, JAX looks for a TPU at every start.
tpu-check:  ## compile for Cloud TPU without one; minutes, installs libtpu into .venv-tpu
	@$(MAKE) --no-print-directory VENV=.venv-tpu JAX_EXTRA=tpu .venv-tpu/.installed-tpu
	.venv-tpu/bin/python -m benchmarks.tpu_check --json runs/tpu_check.json

check: $(STAMP)  ## lint, format, imports and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

clean:  ## remove environments, build files and caches; keep runs
	rm -rf $(VENV) .venv-tpu .venv-oracles .venv-3.* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache
	find ddpm_jax experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "error: $(PYTHON) is missing or older than Python 3.11; choose another with PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "error: $(PYTHON) has no venv module; install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing ddpm_jax[$(EXTRAS)] into $(VENV): once, one to three minutes"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[$(EXTRAS)]" $(addprefix jax==,$(JAX_VERSION))
	@rm -f $(VENV)/.installed*
	@touch $@
