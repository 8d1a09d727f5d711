# `make demo` and `make test` are all that a newcomer needs. Each builds .venv the first time, and
# again only when pyproject.toml or the interpreter changes; in between, no network is touched.

BIN := .venv/bin

# What was installed for an interpreter that has since been removed must be installed again.
$(shell test -x $(BIN)/python || rm -f .venv/.demo .venv/.dev)

# The first of these that runs (a pyenv shim can exist and fail) and is at least version $(1).
first-python = $(shell for python in $(2); do \
	$$python -c 'import sys; sys.exit(sys.hexversion < $(1))' 2>/dev/null && echo $$python && break; done)
PYTHON ?= $(call first-python,0x30b0000,python3.11 python3.12 python3.13 python3.14 python3)
PYENV_PYTHON := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.
NEWEST ?= $(call first-python,0x30c0000,$(foreach minor,14 13 12,\
	python3.$(minor) $(wildcard $(PYENV_PYTHON)$(minor).*/bin/python)))

# uv, if the one on PATH knows dependency groups; otherwise pip, which knows them from 25.1 on.
ifeq ($(shell uv pip install --help 2>/dev/null | grep -c -- --group),0)
UV := $(BIN)/uv
venv = $(PYTHON) -m venv --clear .venv
pip = $(BIN)/python -m pip install --quiet
install = $(BIN)/python -m ensurepip >/dev/null && $(pip) --upgrade 'pip>=25.1' && $(pip)
else
UV := uv
venv = uv venv --quiet --clear --python $(PYTHON) .venv
install = uv pip install --quiet --python $(BIN)/python
endif

# JAX compiles on every core already, so that more workers than this only take memory. What shares
# compiled programs stays in one worker; the doctests, many and small, come last and even it out.
PYTEST := pytest -n logical --maxprocesses 8 --dist loadgroup --no-loadscope-reorder
QUICK := $(PYTEST) -m 'not slow'
# Of these the suite checks the types and shapes of all arguments and results, while it runs; not of
# `chunked`, which is public: tests give it wrong arguments.
comma := ,
space := $() $()
TYPED := jaxloss._core $(addprefix jaxloss._memory.,chunk_map chunk_sum deferred layout measure mesh row_factors) \
	jaxloss._xla jaxloss.numerics runtime_types.check
# What is compared between versions: the laws on the classic losses, and the contract around them.
ENDS := $(QUICK) tests/laws $(patsubst %,tests/test_%.py,reduction loss_decorator checks readme) \
	-k 'not laws or regression or softmax_cross or hinge'

.PHONY: help demo test check suite costs lint types format readme docs notebooks accelerators tpu integrations lowest newest nightly wheel clean
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.demo ## the quickstart, as a script
	MPLBACKEND=Agg $(BIN)/python notebooks/01_quickstart.py

test: .venv/.dev ## every loss once, every law, every module: three minutes on two cores
	$(BIN)/$(QUICK)

check: .venv/.dev ## what CI runs: also each family's own tests, the examples in docstrings, eight devices
	$(BIN)/$(PYTEST) -m 'not slow or mesh'

suite: .venv/.dev ## all of it: every option, accuracy in all draws, notebooks, meshes, processes
	XLA_FLAGS= $(BIN)/$(PYTEST) --jaxtyping-packages=$(subst $(space),$(comma),$(TYPED))

costs: .venv/.dev ## where the CPU seconds of `make test` go, by file and by test
	$(BIN)/$(QUICK) --costs

lint: .venv/.dev ## ruff, its formatting, spelling, and the words that may not be used
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python tools/words.py

types: .venv/.dev ## pyright
	$(BIN)/pyright

format: .venv/.dev ## mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

readme: .venv/.dev ## write what is generated: tables and picture of README.md, docs/coming_from*
	$(BIN)/python -m tools.poster
	$(BIN)/python -m tools.readme
	$(BIN)/python -m tools.coming_from

docs: .venv/.dev ## build/site: the documentation, strictly, and what it says of other libraries
	$(BIN)/python docs/build.py
	$(BIN)/pytest -n 0 tests/test_peers.py tests/test_replacements.py

notebooks: .venv/.dev ## execute notebooks/*.py into the .ipynb beside each
	$(BIN)/jupytext --update --to ipynb notebooks/*.py
	$(BIN)/jupyter-nbconvert --to notebook --inplace --execute \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	$(BIN)/python -m tools.notebooks

accelerators: $(filter .venv/%,$(UV)) ## benchmarks/accelerators.md: what TPU and GPU compilers make of each loss
	$(call fresh,$(PYTHON)) --editable . --group accelerators && \
		version=$$("$$tmp/venv/bin/python" -c 'import jax; print(jax.__version__)') && \
		$(UV) pip install --quiet --python "$$tmp/venv/bin/python" --no-deps \
			jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version && \
		"$$tmp/venv/bin/python" benchmarks/accelerators.py

tpu: $(filter .venv/%,$(UV)) ## a dozen losses and `linear` on meshes, compiled for TPU: fails if worse
	$(call fresh,$(PYTHON)) --editable . --group accelerators --group test && \
		"$$tmp/venv/bin/python" benchmarks/accelerators.py --check && \
		"$$tmp/venv/bin/pytest" -n 0 tests/test_accelerators.py

integrations: $(filter .venv/%,$(UV)) ## losses in Keras, boosting and each framework, in an environment with them
	$(call fresh,$(PYTHON)) --editable . --group test --group integrations && \
		KERAS_BACKEND=jax "$$tmp/venv/bin/"$(PYTEST) tests/test_integrations.py tests/test_frameworks.py

# The next three work in an environment of their own, made for the purpose and removed afterwards.
fresh = tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	$(UV) venv --quiet --python $(1) "$$tmp/venv" && \
	$(UV) pip install --quiet --python "$$tmp/venv/bin/python"

lowest: $(filter .venv/%,$(UV)) ## the contract on the lowest versions that pyproject.toml admits
	$(call fresh,3.11) --resolution lowest-direct --editable . --group test && \
		"$$tmp/venv/bin/"$(ENDS)

newest: $(filter .venv/%,$(UV)) ## the contract on the newest Python and the newest versions
ifdef NEWEST
	$(call fresh,$(NEWEST)) --editable . --group test && "$$tmp/venv/bin/"$(ENDS)
else
	@echo "skipped: Python 3.12 or later is not here"
endif

# Where JAX publishes the build of each night, as its installation guide says.
NIGHTLY := https://us-python.pkg.dev/ml-oss-artifacts-published/jax/simple/

nightly: $(filter .venv/%,$(UV)) ## the contract on JAX as it was built last night
	$(call fresh,$(or $(NEWEST),$(PYTHON))) --editable . --group test && \
		$(UV) pip install --quiet --python "$$tmp/venv/bin/python" --upgrade --prerelease allow \
			--no-deps --index-url $(NIGHTLY) jax jaxlib && "$$tmp/venv/bin/"$(ENDS)

wheel: $(filter .venv/%,$(UV)) ## build dist/*, and import it with nothing but its dependencies
	rm -rf dist
	$(UV) build --quiet
	$(call fresh,$(PYTHON)) dist/*.whl && cd "$$tmp" && \
		venv/bin/python -W error -c 'import jaxloss; print("imported", jaxloss.__file__)'

clean: ## remove what the other targets made
	rm -rf .venv build dist .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later on PATH: make PYTHON=/path/to/it" >&2; exit 1; }
	$(venv)

$(BIN)/uv: $(BIN)/python
	$(install) 'uv>=0.7'

.venv/.demo: pyproject.toml $(BIN)/python
	$(install) --editable '.[demo]'
	@touch $@

.venv/.dev: pyproject.toml $(BIN)/python
	$(install) --editable '.[notebooks,plot]' --group dev
	@touch $@
