# Two commands: `make demo` and `make test`. Both set everything up themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Compiled modules are kept even where they are not by default: tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint docs lock clean

demo: $(READY)
	$(BIN)/histogen demo --out demo $(ARGS)

test: lint
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $(READY)

docs: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r pyproject.toml --extra docs
	$(BIN)/mkdocs build --strict

lock:
	$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --extra test pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) demo build site *.egg-info .pytest_cache .ruff_cache .mypy_cache
