# Every target works first, from a clean clone, and again without reinstalling.
PYTHON ?= python3
BIN := .venv/bin
# timing.py is what they share; stalls.py and verdicts.py take an hour and are run by hand.
BENCHMARKS := $(filter-out %/timing.py %/stalls.py %/verdicts.py,$(wildcard benchmarks/*.py))

# What `make docs` shows: the techniques, and the bench that lessons are written with.
PUBLIC := nbkit $(addprefix nbkit.lab.,lesson knobs data models plots runs.training runs.seeds runs.tuned signal_data evidence.claims evidence.verdicts evidence.register evidence.stats evidence.comparisons evidence.proportions cost.timing)

.PHONY: help run lab test check docs bench gpu lock store

help:            ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/: .*##/\t/'

run: .venv/.has-lab        ## execute every lesson headless; table, records and a page under runs/
	@$(BIN)/nbkit run

lab: .venv/.has-lab        ## copy the lessons to nbkit-lessons/ and open JupyterLab there
	@$(BIN)/nbkit lab

test: .venv/.has-test      ## the whole test suite, stored lessons included
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python tests/notebooks/nbval_strict.py -n 2 --dist loadfile

check: .venv/.has-test     ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.has-test      ## the public API as pages, under runs/docs
	$(BIN)/python -m pdoc --docformat google --output-directory runs/docs $(PUBLIC)
	@echo "runs/docs/index.html"

bench: .venv/.has-bench    ## the promised ratios, measured side by side
	@over=0; for file in $(BENCHMARKS); do echo "$$file"; $(BIN)/python $$file || over=1; done; exit $$over

gpu: .venv/.has-test       ## the tests that need CUDA
	$(BIN)/python -m pytest -m gpu -rs

lock: .venv/.has-bench     ## pin what is installed now, for the next install and for CI
	@{ head -2 .ci/constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | \
	  grep -viE '^(torch( @|==)|nvidia|triton|cuda)'; } > .ci/constraints.new && mv .ci/constraints.new .ci/constraints.txt

store: .venv/.has-lab      ## execute the lessons in place and store their outputs
	$(BIN)/python -m nbkit.course.store notebooks/*.ipynb

# One environment for all targets; a target installs what it needs on top, once.
.venv/.has-%: pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "nbkit needs Python 3.11 to 3.13; this is $$($(PYTHON) --version). Say make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing nbkit[$*] into .venv (the first time takes a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[$*]'
	@touch $@
