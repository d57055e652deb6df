# Everything that a target needs is set up inside it: Python 3.11 or 3.12 and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo demo-merge demo-edit demo-distill up test test-oracle bench effect lint
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/python -m lfm_tasks.cli demo

demo-merge: $(READY)
	$(BIN)/python -m lfm_tasks.cli demo merge

# make demo-edit METHODS=all, or METHODS="rome alphaedit" FACTS=24: other methods and sizes than the default's
demo-edit: $(READY)
	$(BIN)/python -m lfm_tasks.cli demo edit $(if $(METHODS),--methods $(METHODS)) $(if $(FACTS),--facts $(FACTS))

# make demo-distill METHODS="dist minilm": by other methods than the default's
demo-distill: $(READY)
	$(BIN)/python -m lfm_tasks.cli demo distill $(if $(METHODS),--methods $(METHODS))

up: $(READY)
	$(BIN)/python -m lfm_tasks.cli up

# Three at a time on two cores: tests of whole stacks wait more than they work.
test: $(READY)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Merges beside mergekit's and FusionBench's, each in an environment of its own that this makes; make test skips what it cannot make.
test-oracle: $(READY)
	CI=true $(BIN)/python -m pytest tests/oracle

# make bench: all; make bench NAME=parse: one
bench: $(READY)
	@set -e; for file in $(or $(NAME:%=tests/benchmarks/bench_%.py),$(sort $(wildcard tests/benchmarks/bench_*.py))); do \
		echo "== $$file"; PYTHONPATH=. $(BIN)/python $$file; \
	done

# make effect NAME=adaptation, merging, averaging, editing, sequences, distillation, data_free: what a method gains, over three seeds; ARGS are the script's own
effect: $(READY)
	PYTHONPATH=. $(BIN)/python tests/effects/$(NAME).py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "Python 3.11 or 3.12 is needed; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing the pinned packages into $(VENV): about 2 GB, some minutes.'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --quiet --no-compile --requirement requirements.txt
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # on every core, where pip would use one
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --quiet --no-deps --no-build-isolation --editable .
	touch $@
