# `make demo` and `make test` are all that a newcomer types; both create .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

# The npm package with which a test reads what we wrote; any other version is as good.
JS_CLIENT := @huggingface/hub@2.17.5

# What tests/label_studio tries, and whose answers the other tests play back.
LABEL_STUDIO := label-studio==1.23.2

.PHONY: help demo test test-ray test-label-studio test-hub-upstream js-client check bench install clean

help:
	@echo "make demo    the main job on text that is already on this machine, no network, under 4 minutes"
	@echo "make test    all tests but those with Ray (make test-ray installs and tries it)"
	@echo "make test-label-studio   pushes to and pulls from a real Label Studio; downloads it (1 GB)"
	@echo "make test-hub-upstream   huggingface_hub's own tests against the local Hub of ours; downloads them"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make bench   list the benchmarks"
	@echo "make clean   delete caches, runs and .venv"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "svp_nlp needs Python >= 3.10; try: make PYTHON=python3.11 demo")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and alone: a pinned torch serves the CPU build where the index has one.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/svp run recipes/demo/active_fasttext_vdcnn.yaml --run-dir runs/demo

test: install js-client
	$(BIN)/python -m pytest -n 2

# Never fails: the one test that needs it says that it was skipped.
js-client: install
	@if test -d $(VENV)/js/node_modules/@huggingface/hub; then :; \
	elif ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
		echo "no node and npm here: the test with the npm client will be skipped"; \
	elif ! npm install --silent --no-audit --no-fund --fetch-retries=1 --prefix $(VENV)/js $(JS_CLIENT) >/dev/null 2>&1; then \
		echo "npm could not install $(JS_CLIENT): the test with the npm client will be skipped"; \
	fi

test-hub-upstream: install
	$(BIN)/python tests/hub/upstream/run.py

test-label-studio: install $(VENV)/label-studio/.installed
	$(BIN)/python -m pytest tests/label_studio --timeout=1800 -rs

# A server for tests, of 1 GB: in an environment of its own, for it pins much of what we need in other versions.
$(VENV)/label-studio/.installed:
	$(PYTHON) -m venv $(VENV)/label-studio
	$(VENV)/label-studio/bin/python -m pip install --quiet $(LABEL_STUDIO)
	@touch $@

test-ray: $(VENV)/.installed-ray
	$(BIN)/python -m pytest tests/ray

$(VENV)/.installed-ray: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,ray]'
	@touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench:
	@echo "Each prints a table with its machine; run one with .venv/bin/python benchmarks/NAME.py"
	@for f in $$(ls benchmarks/*.py | grep -v synthetic); do sed -n '1s/^"""/  /p' $$f | sed "s|^|$$f|"; done

clean:
	rm -rf $(VENV) runs .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
