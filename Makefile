# Needs git, make and Python 3.12 or later; everything else is installed into .venv from pinned, hashed requirements.
#   make quickstart   the main job, `meshwright run tiny`: corpora, pretraining, SFT, DPO, text
#   make test         lint and tests;   make test-full   the same with the slow ones
#   make lint         lint alone;       make lock        pin the requirements anew (UPGRADE=--upgrade takes newer versions)
#   make device-check the first command on a new GPU or TPU machine; uses the jax installed for DEVICE_PYTHON (python3)
#   make soak-short   a run that is killed, frozen and damaged 8 times must end with the bits of one that is not;   make soak   40 times

PYTHON ?= $(shell for p in python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && command -v $$p && break; done)
DEVICE_PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.12 --generate-hashes --no-annotate --quiet \
	--custom-compile-command "make lock" $(UPGRADE)

.PHONY: quickstart test test-full device-check soak-short soak lint lock clean

quickstart: .venv/base.installed
	$(BIN)/meshwright run tiny
	@echo "Installed: $$($(BIN)/python -m pip list --format=freeze 2>/dev/null | wc -l) packages, $$(du -sh .venv | cut -f1) in .venv; nothing more is fetched."
	@echo "The command is $(BIN)/meshwright, or meshwright after \`source .venv/bin/activate\`; \`$(BIN)/meshwright --help\` lists what it does."

test: lint
	$(PYTEST) -m "not slow"

test-full: lint
	$(PYTEST)

# No .venv: a machine with an accelerator has a jax that was built for it.
device-check:
	$(DEVICE_PYTHON) -m launch bench device --json device-check.json

soak-short: .venv/dev.installed
	$(BIN)/python -m tests.soak --faults 8 --seed 1

soak: .venv/dev.installed
	$(BIN)/python -m tests.soak --faults 40 --seed 1

lint: .venv/dev.installed
	$(BIN)/ruff check .

lock: .venv/dev.installed
	$(COMPILE) -o requirements/base.txt
	$(COMPILE) --extra dev -c requirements/base.txt -o requirements/dev.txt

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.12 or later found; install it, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { echo "make: $(PYTHON) is no Python 3.12 or later; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "creating .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "make: $(PYTHON) makes no environment; install its venv module" >&2; exit 1; }

# The package itself is linked by the pinned setuptools: without build isolation nothing unpinned is fetched.
.venv/base.installed: requirements/base.txt pyproject.toml | .venv/bin/python
	@echo "installing requirements/base.txt (once, some minutes)"
	@$(PIP) install --require-hashes -r requirements/base.txt || { echo "make: the packages could not be installed; is an index reachable? name yours: export PIP_INDEX_URL=…" >&2; exit 1; }
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev.installed: requirements/dev.txt .venv/base.installed
	@echo "installing requirements/dev.txt"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
