# The two jobs of a fresh clone are `make quickstart` and `make test`; everything else serves them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help quickstart test test-all conformance lint format docs bench knobs clean

help:
	@echo "make quickstart   install, teach a small SDXL a new thing, archive it, show before and after"
	@echo "make test         install what tests need, run the default suite (under 8 minutes on 2 cores)"
	@echo "make test-all     the slow tests too"
	@echo "make conformance  against a real sd-scripts, which LORAKIT_SD_SCRIPTS names (docs/two-trainers.md)"
	@echo "make lint         ruff, mypy, import rules"
	@echo "make docs         rewrite the generated pages (preset reference, rules)"
	@echo "make bench        run the benchmarks"
	@echo "make knobs        what each setting does: bake what docs/knobs.md still lacks, write the page"
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

models/bench-sdxl.safetensors: | $(VENV)/.builtin
	$(BIN)/python -m lorakit.bench_model write $@ --size learned

quickstart: $(VENV)/.builtin models/bench-sdxl.safetensors
	$(BIN)/lorakit bake presets/quickstart.toml
	$(BIN)/python -m lorakit.bench_model score latest

test: $(VENV)/.dev
	$(BIN)/pytest -n auto --dist loadfile -m "not slow and not full_size"

test-all: $(VENV)/.dev
	$(BIN)/pytest

# Without a checkout what was recorded of one is still held to, and what was not run is said.
conformance: $(VENV)/.dev
ifdef LORAKIT_SD_SCRIPTS
	$(BIN)/pytest tests/conformance -m "not full_size"
else
	$(BIN)/pytest tests/conformance -m "not slow and not full_size"
	@echo "SKIPPED: everything that runs a real sd-scripts. Set LORAKIT_SD_SCRIPTS to a checkout, see docs/two-trainers.md."
endif
ifdef LORAKIT_FULL_SIZE
	$(BIN)/pytest tests/conformance -m full_size
else
	@echo "SKIPPED: the full size (15 GB of memory). Set LORAKIT_FULL_SIZE to an SDXL checkpoint, see docs/two-trainers.md."
endif

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
	$(BIN)/python -m lorakit.verdict.diagnose.reference > docs/diagnose.md

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/cli_startup.py
	$(BIN)/python benchmarks/plan_10k.py
	$(BIN)/python benchmarks/archive_10k.py
	$(BIN)/python benchmarks/launch_overhead.py
	$(BIN)/python benchmarks/events.py
	$(BIN)/python benchmarks/compare_500.py
	$(BIN)/python benchmarks/weights_128.py

knobs: $(VENV)/.builtin
	$(BIN)/python benchmarks/knobs.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
