# Needs Python 3.10 to 3.13 and make. uv is used where it is present, because it installs faster.

VENV := .venv
EXTRAS := dev
PYTHON := $(VENV)/bin/python
PYTHONS := python3.13 python3.12 python3.11 python3.10 python3
PORT := 8080
EMULATOR_PORT := 8770
FAULTS := 200
# The tests start hundreds of processes, which compile the package anew where Python may not keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE
# In several processes; tests/conftest.py says how the tests are shared out.
PYTEST = $(PYTHON) -m pytest -n auto
CLUSTER_TESTS := tests/cluster
VERSIONS := 3.10 3.11 3.12 3.13
# The tests of these parts import Airflow, which takes each process seconds.
AIRFLOW_TESTS := cluster dags decorators doctor e2e hooks lineage operators sensors triggers ui \
	test_imports.py test_links.py test_metrics.py test_provider_info.py test_pytest_plugin.py test_reaper.py \
	test_serving_reaper.py storage

.PHONY: help demo test test-long test-matrix test-one-run test-cluster test-one-cluster unit chaos bench docs lint clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo: $(VENV)/ready ## run the MNIST lifecycle on a real Airflow [MNIST=folder] [RUNS=1] [PORT=8080] [EMULATOR_PORT=8770]
	@$(PYTHON) -m airflow_bitahub.cli demo --home .demo --image-cache .images \
		--port $(PORT) --emulator-port $(EMULATOR_PORT) $(if $(MNIST),--mnist "$(MNIST)") $(if $(RUNS),--runs $(RUNS))

test: $(VENV)/ready ## run all tests but the long ones, on a real Airflow and real TensorFlow
	@$(PYTEST) -m "not long" --ignore=$(CLUSTER_TESTS)

test-long: $(VENV)/ready ## run the long tests: what rarely breaks, and a short selection of `make chaos`
	@$(PYTEST) -m long --ignore=$(CLUSTER_TESTS)

test-matrix: ## run `make unit` and two end-to-end tests on each Python here [VERSIONS="3.10 3.11 3.12 3.13"]
	@failed=; for version in $(VERSIONS); do \
		python=python$$version; \
		$$python -c "" 2>/dev/null || \
			python=$$(ls "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python 2>/dev/null | tail -n 1); \
		if [ -z "$$python" ]; then echo "Python $$version is not on this machine: skipped"; continue; fi; \
		echo "Python $$version"; \
		$(MAKE) --no-print-directory VENV=.venv-$$version PYTHONS="'$$python'" unit test-one-run || failed="$$failed $$version"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed on Python$$failed" >&2; exit 1; fi

test-cluster: ## run Airflow as in production: Celery, Redis, PostgreSQL, two workers, two triggerers
	@$(MAKE) --no-print-directory VENV=.venv-cluster EXTRAS=dev,cluster test-one-cluster

test-one-cluster: $(VENV)/ready
	@$(PYTHON) -m pytest $(CLUSTER_TESTS)

# Without TensorFlow, whose environment has 1.6 GB for each Python.
test-one-run: $(VENV)/ready
	@$(PYTHON) -m pytest tests/e2e/test_lifecycle.py -k "backfill or retry"

unit: $(VENV)/ready ## run the tests that need neither Airflow nor TensorFlow
	@$(PYTEST) -m "not long and not tensorflow" $(AIRFLOW_TESTS:%=--ignore=tests/%)

chaos: $(VENV)/ready ## kill, freeze, clear, mark and break everything while jobs run [SEED=number] [FAULTS=200]
	@$(PYTHON) -m tests.chaos --home .chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

bench: .venv-bench/ready ## measure this package beside others, in about an hour [ARGS="--json FILE --only NAME --jobs 1000"]
	@.venv-bench/bin/python -m benchmarks $(ARGS)

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/ready ## build the documentation into the folder site, and fail at any dead link
	@$(PYTHON) -m mkdocs build --quiet --strict --config-file docs/mkdocs.yml --site-dir ../site
	@$(PYTHON) -m mkdocs build --quiet --strict --config-file docs/mkdocs.zh.yml --site-dir ../site/zh
	@echo "The documentation is in site/index.html and site/zh/index.html"

lint: $(VENV)/ready ## check style and types
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

clean: ## remove everything the other targets made
	rm -rf .venv .venv-* .demo .images .chaos .pytest_cache .mypy_cache .ruff_cache dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/ready: pyproject.toml constraints.txt
	@set -e; \
	for python in $(PYTHONS) ""; do \
		if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.10, 3.11, 3.12 or 3.13 is needed, and none was found." >&2; exit 1; fi; \
	echo "Installing Airflow and the tools into $(VENV) with $$python (only once)"; \
	if command -v uv >/dev/null && uv venv --quiet --clear --python "$$python" $(VENV); then \
		install="uv pip install --python $(PYTHON)"; \
	else \
		"$$python" -m venv --clear $(VENV) >/dev/null || { \
			echo "$$python cannot make virtual environments: install its venv module (Debian: python3-venv)." >&2; exit 1; }; \
		install="$(PYTHON) -m pip --disable-pip-version-check install"; \
	fi; \
	if ! $$install --constraint constraints.txt --editable '.[$(EXTRAS)]' >$(VENV)/install.log 2>&1; then \
		tail -n 3 $(VENV)/install.log >&2; \
		echo "The packages could not be installed. Is there a network? The whole log is $(VENV)/install.log." >&2; exit 1; \
	fi; \
	touch $@

.venv-bench/ready: $(VENV)/ready benchmarks/requirements.txt
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
