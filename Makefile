# The two jobs of a fresh clone are `make quickstart` and `make test`; everything else serves them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help quickstart test test-all lint format docs bench clean

help:
	@echo "make quickstart   install, write a tiny SDXL model, bake a LoRA on it, archive it"
	@echo "make test         install what tests need, run the default suite (under 8 minutes on 2 cores)"
	@echo "make test-all     the slow tests too"
	@echo "make lint         ruff, mypy, import rules"
	@echo "make docs         rewrite the generated pages (preset reference, rules)"
	@echo "make bench        run the benchmarks"
	@echo "make clean        remove the environment and caches; runs are kept"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lorakit needs Python 3.11 or newer; say PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.builtin: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[builtin]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.builtin

models/tiny-sdxl.safetensors: | $(VENV)/.builtin
	$(BIN)/python -m lorakit.bench_model write $@ --size tiny

quickstart: $(VENV)/.builtin models/tiny-sdxl.safetensors
	$(BIN)/lorakit bake presets/quickstart.toml

test: $(VENV)/.dev
	$(BIN)/pytest -m "not slow and not full_size"

test-all: $(VENV)/.dev
	$(BIN)/pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.builtin
	$(BIN)/python -m lorakit.preset.reference > docs/presets.md
	$(BIN)/python -m lorakit.trainers.builtin_page > docs/builtin-trainer.md
	$(BIN)/python -m lorakit.trainers.rules_page > docs/rules.md

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/cli_startup.py
	$(BIN)/python benchmarks/plan_10k.py
	$(BIN)/python benchmarks/archive_10k.py
	$(BIN)/python benchmarks/launch_overhead.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
