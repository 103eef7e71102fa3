# One command does each thing; every target sets itself up, on a machine with Python 3.11 or newer, pip and make.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS ?= runs/peers

.PHONY: demo test fast long soak reliability replay docs check bench peers text8 fuzz format clean

demo: $(READY) ## train, fine-tune, merge and compare on real digits
	$(BIN)/python examples/digits.py

test: $(READY) ## all tests but the long ones
	$(BIN)/python -m pytest -m "not long" -n auto

fast: $(READY) ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not long" -n auto -q

long: $(READY) ## the tests that take minutes to hours
	$(BIN)/python -m pytest -m long

soak: $(READY) ## random merges against the references for MINUTES; SEED and CASE run one again
	$(BIN)/python -m tests.long.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(if $(CASE),--case $(CASE))

reliability: $(READY) ## the figures of docs/reliability.md, in an hour or two; PARTS="fuzz soak" for some, STEP=5 for fewer kills
	$(BIN)/python benchmarks/reliability.py $(PARTS) $(if $(STEP),--step $(STEP)) $(if $(MINUTES),--minutes $(MINUTES))

replay: $(READY) ## put the hashes of all merges on record anew, after a change of bits that is meant
	$(BIN)/python -m tests.test_replay

docs: $(READY) ## docs/methods/, a page for every method, from its class
	$(BIN)/python docs/make_methods.py

check: $(READY) ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## speed and memory, as ratios to a floor measured in the same run; QUICK=1 for a look
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/fisher.py $(if $(QUICK),--quick,--page docs/fisher.md)

peers: $(READY) $(PEERS)/.ready ## the same merges by mergekit and by a plain torch loop; takes minutes
	$(BIN)/python benchmarks/bench.py --peers $(PEERS)/bin/mergekit-yaml $(if $(QUICK),--quick)

text8: $(READY) ## train eight experts, merge them with every method, score them on real tasks; DATA is their folder
	$(BIN)/python benchmarks/text8/run.py --data $(DATA) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY)) $(if $(PARTS),--parts $(PARTS)) $(ARGS)

MINUTES ?= 10

fuzz: $(READY) ## spoiled headers, indices, configs, recipes and pickles for MINUTES: nothing but InputError may come of them
	$(BIN)/python -m tests.hostile.fuzz --minutes $(MINUTES)

format: $(READY) ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and what was made
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

$(PEERS)/.ready: constraints.txt # an environment of their own, for programs that are run and never imported
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mergekit==0.1.5
	touch $(PEERS)/.ready
