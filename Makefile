# `make help` lists the targets. Everything installs into .venv, by the hashes in requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
LOWEST := .venv-lowest/bin
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --no-strip-extras --upgrade

.DEFAULT_GOAL := help
.PHONY: help demo test coverage lowest test-system unit integration acceptance chaos bench loadtest scaling plan check format sync build docs pictures lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "levelq needs Python 3.11 or later; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv (a minute, once) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock >.venv/pip.log 2>&1 \
		|| { cat .venv/pip.log; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/installed ## the main job on embedded servers: a thousand users, a burst, a killed worker, a verified result
	@$(BIN)/levelq demo

# Tests mostly wait, for servers or for claims to expire, so several processes run them. Each starts its own servers.
SIDE_BY_SIDE := --numprocesses=4 --dist=loadscope --no-loadscope-reorder

test: .venv/installed ## all tests
	@$(BIN)/python -m tests.run -q $(SIDE_BY_SIDE)

coverage: .venv/installed ## all tests, with coverage, which takes longer
	@$(BIN)/python -m tests.run -q $(SIDE_BY_SIDE) --cov --cov-report=term:skip-covered

.venv-lowest/installed: requirements-lowest.lock
	@echo "Setting up .venv-lowest ..."
	@$(PYTHON) -m venv .venv-lowest
	@$(LOWEST)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --no-deps \
		-r requirements-lowest.lock >.venv-lowest/pip.log 2>&1 || { cat .venv-lowest/pip.log; exit 1; }
	@touch $@

# Installs the wheel, as an application does, with the oldest versions that it allows.
lowest: .venv/installed .venv-lowest/installed ## the main paths on the lowest versions that pyproject.toml allows
	@rm -rf .venv-lowest/dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w .venv-lowest/dist .
	@$(LOWEST)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall .venv-lowest/dist/*.whl
	@$(LOWEST)/python -m pip check --disable-pip-version-check
	@$(LOWEST)/python -I tests/lowest/smoke.py

test-system: .venv/installed ## tests that need root, and apt for libfaketime, pgbouncer and Chromium: full disks, other clocks, cut networks, a pooler, the console
	@test "$$(id -u)" = 0 || { echo "make test-system needs root: it mounts file systems and makes network namespaces"; exit 1; }
	@for program in faketime ip nsenter pgbouncer chromium chromedriver; do command -v $$program >/dev/null || missing=1; done; test -z "$$missing" \
		|| { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends faketime iproute2 util-linux pgbouncer \
		chromium chromium-driver fonts-liberation; } >/dev/null
	@$(BIN)/python -m tests.run -q tests/system

unit: .venv/installed ## the tests without servers
	@$(BIN)/python -m tests.run -q --numprocesses=2 --dist=worksteal tests/unit

integration acceptance: .venv/installed ## one tier of the tests
	@$(BIN)/python -m tests.run -q $(SIDE_BY_SIDE) tests/$@

chaos: .venv/installed ## random faults against real processes, then the checker: make chaos SECONDS=60 SEED=7
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

bench: .venv/installed ## levelq compared with RQ, Celery, Dramatiq, procrastinate and direct calls: twenty minutes (SMALL=1: a minute)
	@$(BIN)/python -m benchmarks $(if $(SMALL),--small --repeats 1)

loadtest: .venv/installed ## simulate users on embedded servers, verify, write a report: make loadtest SCENARIO=match SECONDS=30
	@$(BIN)/levelq loadtest --scenario $(or $(SCENARIO),contention) --seconds $(or $(SECONDS),20)

scaling: .venv/installed ## what commands cost, and the effect of more workers than cores: half an hour; see docs/scaling.md
	@$(BIN)/python -m benchmarks.scaling $(if $(ROUNDS),--rounds $(ROUNDS))

plan: .venv/installed ## what a load would take: make plan USERS=10_000_000 RATE=100_000 ARGS='--peak 3' (ARGS=--help lists all)
	@$(BIN)/python -m benchmarks.capacity $(if $(USERS),--users $(USERS)) $(if $(RATE),--rate $(RATE)) $(ARGS)

# Every warning is an error: a link to a page or a heading that does not exist, a docstring that cannot be read.
SITE := $(BIN)/sphinx-build --fail-on-warning --builder html --doctree-dir .venv/doctrees docs .venv/site

check: .venv/installed ## format, lint, strict types, import contracts, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python .ci/make_sync.py --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(SITE) --fresh-env --quiet

format: .venv/installed ## format the code, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: .venv/installed ## the wheel and the source archive in dist/, checked as a package index would, and tests of that archive
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist . >.venv/build.log 2>&1 || { cat .venv/build.log; exit 1; }
	@$(BIN)/twine check --strict dist/*
	@$(BIN)/check-wheel-contents dist/*.whl
	@$(BIN)/python .ci/check_dist.py $(BIN)/python

sync: .venv/installed ## generate the modules for threads from those for asyncio
	@$(BIN)/python .ci/make_sync.py

docs: .venv/installed ## build the documentation in .venv/site, and serve it at 127.0.0.1:8000
	@$(SITE) --quiet
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory .venv/site 8000

# Celery 5.3 requires redis below 6, so the lowest versions are those of an application with both.
lock: ## write both locks (needs uv): the newest versions, and the lowest that pyproject.toml allows
	$(LOCK) pyproject.toml --all-extras --group dev -o requirements.lock
	echo 'celery[redis]>=5.3,<5.4' | $(LOCK) pyproject.toml - --extra worker --extra console --extra embedded --extra demo \
		--extra load --resolution lowest-direct --only-binary :all: -o requirements-lowest.lock

pictures: .venv/installed ## the console's pictures in docs/images (needs chromium and chromium-driver)
	@$(BIN)/python -m tests.system.pictures

clean: ## remove everything that make created
	rm -rf .venv .venv-lowest build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* site dist levelq-data demo.png loadtest.html
