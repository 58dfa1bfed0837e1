# make train, make test, make lint, make docs, make wheel, make lock. Needs only Python 3.11 or newer and make.
#
# With the default python3 the pinned versions of requirements.lock are installed, in .venv. With another one
# (make test PYTHON=python3.13) the newest versions that requirements.txt allows are, in .venv-python3.13.
#
# make test COLAB=1 tests at the versions of Colab's runtime, requirements-colab.txt, in .venv-colab. They are the oldest
# that requirements.txt allows of jax, flax and orbax-checkpoint. Linters and site are for the locked versions alone.
#
# make test ORACLES=1 also installs PyTorch, transformers and pycocotools, and compares with them. PyPI's torch brings CUDA
# on Linux; with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu in the environment pip takes the one for CPU.

DEFAULT_PYTHON := python3
PYTHON ?= $(DEFAULT_PYTHON)
LINT :=
ifdef COLAB
VENV ?= .venv-colab
PINS := -c requirements-colab.txt
else ifeq ($(PYTHON),$(DEFAULT_PYTHON))
VENV ?= .venv
PINS := -c requirements.lock
LINT := lint
else
VENV ?= .venv-$(notdir $(PYTHON))
PINS :=
endif
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
WORKDIR ?= runs/digits
TESTS ?= tests
DIST ?= loadfile

# Compiled programs are kept from one test run to the next.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
# So is bytecode, which the processes that tests start would compile again and again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: train test lint docs notebooks wheel lock clean

train: $(VENV)/runtime.stamp
	$(VENV)/bin/python -m pvt_jax.main --config configs/digits.py --workdir $(WORKDIR)

test: $(or $(LINT),$(VENV)/dev.stamp) $(if $(ORACLES),$(VENV)/oracles.stamp)
	$(VENV)/bin/python -m pytest -n 3 --dist $(DIST) --no-loadscope-reorder --durations=15 $(TESTS)

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# A warning fails the build. Nothing is downloaded while it runs.
docs: $(VENV)/docs.stamp
	$(VENV)/bin/python -m sphinx -W --keep-going --quiet docs build/docs
	@echo "built build/docs/index.html"

# Executes the notebooks and keeps what they showed, which is what the site and readers see. A network would change it.
notebooks: $(VENV)/dev.stamp
	$(VENV)/bin/python -m tests.helpers.notebooks

# What an earlier build has left would go into the wheel.
wheel: $(VENV)/runtime.stamp
	rm -rf build/lib build/bdist.* dist/*.whl pvt_jax.egg-info
	$(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

$(VENV)/runtime.stamp: requirements.txt requirements.lock requirements-colab.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  "pvt_jax needs Python 3.11 or newer, but $(PYTHON) is %d.%d: give another with make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt $(PINS)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp requirements-dev.txt requirements-oracles.txt
	$(PIP) -r requirements-dev.txt $(PINS)
	$(PIP) --no-deps timm -c requirements-oracles.txt
	@touch $@

$(VENV)/docs.stamp: $(VENV)/runtime.stamp requirements-docs.txt
	$(PIP) -r requirements-docs.txt $(PINS)
	@touch $@

# PyTorch first and by itself, so that nothing else chooses its version.
$(VENV)/oracles.stamp: $(VENV)/dev.stamp
	$(PIP) torch -c requirements-oracles.txt $(PINS)
	$(PIP) transformers pycocotools -c requirements-oracles.txt $(PINS)
	@touch $@

# Rewrites requirements.lock from a fresh environment with the newest versions that the ranges allow.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet \
	  -r requirements.txt -r requirements-dev.txt -r requirements-docs.txt
	{ echo "# One tested set of versions of requirements.txt, -dev.txt and -docs.txt; written by: make lock"; \
	  .venv-lock/bin/python -m pip freeze --exclude pip --exclude setuptools; } > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-* .cache build dist pvt_jax.egg-info
