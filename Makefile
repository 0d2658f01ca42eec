# make run    start a server for development
# make test   everything that the tests need, then all tests
# make check  lint, types, import arrows

PYTEST = .venv/bin/python -m pytest
# One more than there are cores: much of the time tests wait for deadlines and for other programs.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# Servers that tests start would compile the whole program each time: half of the CPU of a start.
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup dev run test test-long check format bench clean

setup:
	@sh scripts/setup.sh

dev:
	@sh scripts/setup.sh dev

run: setup
	@exec .venv/bin/sendkit serve --dev

test: dev
	@sh scripts/peers.sh
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not long"

test-long: dev
	@sh scripts/peers.sh
	$(PYTEST) -m long

check: dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: dev
	@sh scripts/peers.sh
	.venv/bin/python benchmarks/run.py
	.venv/bin/python benchmarks/engines.py
	.venv/bin/python benchmarks/hostile.py
	.venv/bin/python benchmarks/limits.py

clean:
	rm -rf .venv .cache
