# Everything happens in .venv, which the first target that needs it sets up. Python of another
# name or version: make setup PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
VENV_PYTHON := $(VENV)/bin/python
PIP_INSTALL := $(VENV_PYTHON) -m pip -q --disable-pip-version-check install -c constraints.txt
STAMP := $(VENV)/.set-up

# Runs on any Python, also on one that is too old for the project.
define CHECK_PYTHON
import sys
have = "%d.%d" % sys.version_info[:2]
again = "Install Python 3.11 and run: make setup PYTHON=python3.11"
if sys.version_info[:2] < (3, 10):
    sys.exit("error: Python %s is too old: 3.10 to 3.13 are supported. %s" % (have, again))
if sys.version_info[:2] > (3, 13):
    sys.exit("error: Python %s is newer than the pinned packages: 3.10 to 3.13 are supported. %s"
             % (have, again))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("error: this Python has no venv. On Debian and Ubuntu: apt install python%s-venv" % have)
endef
export CHECK_PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-sharpmask demo-proposals test lint format clean distclean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: $(STAMP)  ## Create .venv with everything that constraints.txt pins (skipped when up to date)

demo: setup  ## Run the demo; options for it: make demo ARGS="--help"
	$(VENV_PYTHON) tools/quickstart.py $(ARGS)

demo-sharpmask: setup  ## The same for DeepMask and SharpMask: both stages, masks compared
	$(VENV_PYTHON) tools/quickstart_sharpmask.py $(ARGS)

demo-proposals: setup  ## DeepMask, SharpMask, proposals, Fast R-CNN on them; against RPN and random
	$(VENV_PYTHON) tools/quickstart_proposals.py $(ARGS)

test: setup  ## Run all tests; options for pytest: make test ARGS="-m 'not slow'"
	$(VENV_PYTHON) -m pytest -n auto --maxprocesses 4 --dist loadfile \
	  --no-loadscope-reorder $(ARGS)

lint: setup  ## Check style and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

format: setup  ## Reformat the code and mend what ruff can mend
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

clean:  ## Remove caches and build products
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv as well
	rm -rf $(VENV)

# Build tools are pinned like the rest, so packages build with them and not with the newest ones.
# A machine without a display lacks the libraries that opencv-python draws windows with: there its
# headless twin takes its place. The packages are listed since installing finds them by name.
$(STAMP): setup.py pyproject.toml constraints.txt instseg_d2/install_detectron2.py \
          $(wildcard *_d2/__init__.py)
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: there is no '$(PYTHON)'. Install Python 3.11 and run:" \
	       "make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Setting up $(VENV) with what constraints.txt pins: the first time about 5 GB, some minutes."
	@$(PIP_INSTALL) pip setuptools wheel
	@PYTHONWARNINGS=ignore $(PIP_INSTALL) --no-build-isolation -e '.[dev,export]'
	@$(VENV_PYTHON) -c "import cv2" 2>/dev/null || { \
	  $(VENV_PYTHON) -m pip -q uninstall -y opencv-python && \
	  $(PIP_INSTALL) --force-reinstall --no-deps opencv-python-headless; }
	@$(VENV_PYTHON) -m instseg_d2.install_detectron2
	@$(VENV_PYTHON) -m instseg_d2.check_env
	@touch $@
