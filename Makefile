# Needs Python 3.10 to 3.13 and make. uv is used where it is present, because it installs faster.

PYTHON := .venv/bin/python
PORT := 8080
EMULATOR_PORT := 8770
FAULTS := 200
# The tests start hundreds of processes, which compile the package anew where Python may not keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE
# In several processes; tests/conftest.py says how the tests are shared out.
PYTEST = $(PYTHON) -m pytest -n auto
# The tests of these parts import Airflow, which takes each process seconds.
AIRFLOW_TESTS := dags decorators doctor e2e hooks operators sensors triggers \
	test_imports.py test_links.py test_provider_info.py test_pytest_plugin.py test_reaper.py \
	test_serving_reaper.py storage

.PHONY: help demo test test-long unit chaos bench lint clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo: .venv/ready ## run the MNIST lifecycle on a real Airflow [MNIST=folder] [PORT=8080] [EMULATOR_PORT=8770]
	@$(PYTHON) -m airflow_bitahub.cli demo --home .demo --image-cache .images \
		--port $(PORT) --emulator-port $(EMULATOR_PORT) $(if $(MNIST),--mnist "$(MNIST)")

test: .venv/ready ## run all tests but the long ones, on a real Airflow and real TensorFlow
	@$(PYTEST) -m "not long"

test-long: .venv/ready ## run the long tests: what rarely breaks, and a short selection of `make chaos`
	@$(PYTEST) -m long

unit: .venv/ready ## run the tests that need neither Airflow nor TensorFlow
	@$(PYTEST) -m "not long and not tensorflow" $(AIRFLOW_TESTS:%=--ignore=tests/%)

chaos: .venv/ready ## kill, freeze, clear, mark and break everything while jobs run [SEED=number] [FAULTS=200]
	@$(PYTHON) -m tests.chaos --home .chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

bench: .venv-bench/ready ## measure this package beside others, in about an hour [ARGS="--json FILE --only NAME --jobs 1000"]
	@.venv-bench/bin/python -m benchmarks $(ARGS)

lint: .venv/ready ## check style and types
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

clean: ## remove everything the other targets made
	rm -rf .venv .venv-bench .demo .images .chaos .pytest_cache .mypy_cache .ruff_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: pyproject.toml constraints.txt
	@set -e; \
	for python in python3.13 python3.12 python3.11 python3.10 python3 ""; do \
		if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.10, 3.11, 3.12 or 3.13 is needed, and none was found." >&2; exit 1; fi; \
	echo "Installing Airflow and the tools into .venv with $$python (only once)"; \
	if command -v uv >/dev/null && uv venv --quiet --clear --python "$$python" .venv; then \
		install="uv pip install --python $(PYTHON)"; \
	else \
		"$$python" -m venv --clear .venv >/dev/null || { \
			echo "$$python cannot make virtual environments: install its venv module (Debian: python3-venv)." >&2; exit 1; }; \
		install="$(PYTHON) -m pip --disable-pip-version-check install"; \
	fi; \
	if ! $$install --constraint constraints.txt --editable '.[dev]' >.venv/install.log 2>&1; then \
		tail -n 3 .venv/install.log >&2; \
		echo "The packages could not be installed. Is there a network? The whole log is .venv/install.log." >&2; exit 1; \
	fi; \
	touch $@

.venv-bench/ready: .venv/ready benchmarks/requirements.txt
	@echo "Installing the other providers into .venv-bench (only once)"
	@set -e; \
	if command -v uv >/dev/null && uv venv --quiet --clear --python $(PYTHON) .venv-bench; then \
		install="uv pip install --python .venv-bench/bin/python"; \
	else \
		$(PYTHON) -m venv --clear .venv-bench; \
		install=".venv-bench/bin/python -m pip --disable-pip-version-check install"; \
	fi; \
	if ! $$install --requirement benchmarks/requirements.txt --editable '.[demo]' >.venv-bench/install.log 2>&1; then \
		tail -n 3 .venv-bench/install.log >&2; \
		echo "The providers could not be installed. The whole log is .venv-bench/install.log." >&2; exit 1; \
	fi
	@touch $@
