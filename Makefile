# Needs make and Python 3.11. Each target sets up the environment that it needs.

PYTHON ?= python3.11
# What is installed first. On Linux this brings the CUDA build; pip's own options and PIP_*
# variables choose another.
TORCH ?= torch==2.13.0
# Test processes. Each is held to one thread of its own, or they would fight for the cores.
JOBS ?= 2

# A directory of data sets beside the checkout, if there is one.
ifeq ($(origin FEDTL_DATA),undefined)
ifneq ($(wildcard ../shared/data),)
export FEDTL_DATA := $(abspath ../shared/data)
endif
endif

test test-slow test-floor: export OMP_NUM_THREADS ?= 1
test test-slow test-floor: export MKL_NUM_THREADS ?= 1

.PHONY: help demo test test-slow test-floor bench check clean

help:
	@echo "make demo        run examples/demo.py and save its picture"
	@echo "make test        static checks, tests and doctests"
	@echo "make test-slow   the tests that take long"
	@echo "make test-floor  the tests with the lowest supported versions"
	@echo "make bench       the benchmarks"
	@echo "make check       static checks only"
	@echo "make clean       remove environments, caches and results"

demo: .venv/ready
	@.venv/bin/python examples/demo.py demo.png
	@test -f demo.png && echo "The picture is in $(CURDIR)/demo.png"

test: check
	@.venv/bin/python -m pytest -q -n $(JOBS) --dist worksteal

test-slow: .venv/ready-dev
	@.venv/bin/python -m pytest -q -n $(JOBS) --dist worksteal -m slow

test-floor: .venv-floor/ready
	@.venv-floor/bin/python -m pytest -q -n $(JOBS) --dist worksteal

bench: .venv/ready
	@.venv/bin/python -m benchmarks

check: .venv/ready-dev
	@VENV=.venv scripts/check

clean:
	rm -rf .venv .venv-floor build dist demo.png .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments. torch goes first: asked for as a dependency, it would be the newest.

.venv/ready: pyproject.toml constraints.txt
	$(call new-environment,.venv,constraints.txt,all)

.venv/ready-dev: .venv/ready
	@echo "Adding the test tools to .venv ..."
	@.venv/bin/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@

.venv-floor/ready: pyproject.toml constraints-floor.txt
	$(call new-environment,.venv-floor,constraints-floor.txt,test)

# $(call new-environment,folder,constraints,extra)
define new-environment
@echo "Setting up $(1) (some minutes: it holds PyTorch) ..."
@rm -rf $(1)
@$(PYTHON) -m venv $(1)
@$(1)/bin/python -m pip install -qq -c $(2) $(TORCH)
@$(1)/bin/python -m pip install -qq -c $(2) -e '.[$(3)]'
@touch $@
endef
