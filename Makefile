# make demo   trains a byte-level language model on a CPU and samples from it
# make test   runs every test;  make fast   those that are not slow
# Both set up .venv by themselves, again only when setup.cfg has changed.

PYTHON ?= python3
BIN := .venv/bin
# Two workers; all checks of a mixer in one. A crash of one ends the run.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --max-worker-restart 0
# The CPU, unless you say otherwise: with libtpu installed JAX would look for a TPU.
export JAX_PLATFORMS ?= cpu

.PHONY: demo test fast lint clean

demo: .venv/demo.stamp
	$(BIN)/python -m experiments.train --config=experiments/configs/lm_bytes.py --workdir=runs/demo
	$(BIN)/python -m experiments.generate --workdir=runs/demo --prompt="def main("

test: .venv/test.stamp
	$(PYTEST)

fast: .venv/test.stamp
	$(PYTEST) -m fast

lint: .venv/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf .venv build dist runs *.egg-info

.venv/demo.stamp: setup.cfg
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 12) or sys.exit("jaxseq needs Python 3.12 or newer; $(PYTHON) is %d.%d. Put a newer one first on the PATH, or: make PYTHON=/path/to/python3.12" % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/test.stamp: setup.cfg .venv/demo.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
