# Everything runs inside .venv, which is made when first needed and brought up to date when its inputs change.
PYTHON ?= python3
SAMPLE ?= samples/demo.flac
# Real speech to show beside the sample, in LibriSpeech's layout; the demo goes without where there is none.
DATA ?= $(wildcard ../shared/data/LibriSpeech/dev-clean)

RUN := .venv/bin/python
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint soak bench

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile

demo: .venv/.core ## transcribe the sample recording with the bundled model
	@$(RUN) scripts/demo.py "$(SAMPLE)" $(if $(DATA),--data "$(DATA)")

test: .venv/.dev ## the tests, without the long proofs
	$(RUN) -m pytest

lint: .venv/.dev ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

soak: .venv/.dev ## the long proofs: fuzzing, kills, thousands of random cases
	$(RUN) -m pytest -m soak

bench: .venv/.dev ## speed measurements: every script in benchmarks/
	@for script in benchmarks/*.py; do echo "$$script" && $(RUN) "$$script" || exit 1; done

# A stamp is written last, so a set-up that failed or was stopped runs again. An existing .venv is kept. --no-compile
# because byte code for all of torch and its company takes a minute, and only what is imported is needed.
.venv/.core: EXTRAS =
.venv/.dev: EXTRAS = [dev]
.venv/.core .venv/.dev: pyproject.toml constraints.txt
	@if ! $(RUN) -c '' 2>/dev/null $(if $(UV),,|| ! $(RUN) -m pip --version >/dev/null 2>&1); then \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
			echo "narspeech needs Python 3.11 or later, but '$(PYTHON)' is missing or older: name another, as in make PYTHON=python3.12" >&2; \
			exit 1; }; \
		$(if $(UV),uv venv --quiet --allow-existing --python "$(PYTHON)" .venv,$(PYTHON) -m venv .venv) || exit 1; \
	fi
	@echo "Setting up .venv: a few minutes the first time"
	@$(if $(UV),uv pip install --quiet --python $(RUN),$(RUN) -m pip install --quiet --no-compile --disable-pip-version-check) \
		-c constraints.txt -e ".$(EXTRAS)"
	@touch $@
