# Every command a newcomer needs. `make help` lists them.
SHELL := /bin/bash
DATASET ?= digits
OUT ?= runs/$(DATASET)
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: fuzz sim seeded-bugs help setup run data test test-unit test-e2e check fix protos bench peers chaos packing mutants compile test-compiled hosts test-hosts

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make .venv with everything, development tools included
	@scripts/setup.sh dev
	@scripts/tools.sh

run: ## search a network on real images through the whole mesh (DATASET=digits|fashion-mnist, OUT=folder)
	@scripts/setup.sh run
	@if [ "$(DATASET)" != digits ]; then $(MAKE) --no-print-directory data; fi
	@$(BIN)/nasmesh up --any-port --search examples/$(DATASET).yaml --out $(OUT)

data: ## obtain the images of DATASET (digits come with scikit-learn)
	@scripts/data.sh $(DATASET)

test: ## run all tests
	@scripts/setup.sh dev
	@scripts/tools.sh
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-unit: ## run the unit and contract tests only
	@scripts/setup.sh dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/contract

test-e2e: ## run the tests that start real processes
	@scripts/setup.sh dev
	@scripts/tools.sh
	@$(BIN)/python -m pytest tests/e2e

check: ## format, lint, types, import contracts, protos, shape, documents
	@scripts/setup.sh dev
	@scripts/check.sh

fix: ## apply formatters and safe lint fixes
	@scripts/setup.sh dev
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .
	@cd protos && ../$(BIN)/buf format -w

protos: ## regenerate the committed stubs
	@scripts/setup.sh dev
	@scripts/protos.sh

peers: ## install Optuna and Vizier into .tools/peers, for the benchmark of the control plane
	@scripts/peers.sh

compile: ## make the scheduler's inner loop machine code (a minute, once for its sources); without, it runs as it is
	@scripts/setup.sh dev
	@$(BIN)/python scripts/compile.py

test-compiled: ## compile, then run the simulator and the scheduler's own tests in that form
	@scripts/setup.sh dev
	@scripts/test_compiled.sh

bench: ## run every benchmark quickly, with the scheduler compiled
	@scripts/setup.sh dev
	@$(MAKE) --no-print-directory data DATASET=fashion-mnist
	@$(BIN)/python scripts/compile.py || true
	@for name in train_step layouts epoch fashion_mnist checkpoints instruments evaluate data_stream cell_table slot_idle first_step packing ga_modes startup control_plane journals agents utilisation queries growth restart sizing store; do echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

fuzz: ## long tiers of hostile input: 5,000,000 mutants and keys, messages of every kind, raw bytes, hostile generators (an hour)
	@scripts/setup.sh dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/fuzz tests/security --long -s

SEEDS ?= 0:100000
sim: ## live 100,000 simulated lives with faults (SEEDS=FROM:TO), or one of them (SEED=n)
	@scripts/setup.sh dev
	@if [ -n "$(SEED)" ]; then $(BIN)/python -m tests.sim.run --seed $(SEED); else \
	  $(BIN)/python -m tests.sim.run --seeds $(SEEDS) && $(BIN)/python -m tests.sim.crashes --long; fi

seeded-bugs: ## plant sixteen bugs in the program; each must be caught; writes docs/seeded-bugs.md
	@scripts/setup.sh dev
	@$(BIN)/python -m tests.sim.seeded --all --write

chaos: ## 600 real kills of the scheduler, 150 of each other program, and what runs out; power cuts
	@scripts/setup.sh dev
	@$(BIN)/python -m pytest -s --long tests/chaos tests/sim/test_power_cuts.py

packing: ## train 1,000 random networks under a bound of memory: fewer than 1 % of those let in may run out (NETWORKS=n)
	@scripts/setup.sh dev
	@$(BIN)/python -W ignore -m tests.packing.run --networks $(or $(NETWORKS),1000)

hosts: ## a search over network namespaces while hosts are killed, cut off, drained and added (root; five minutes at most)
	@scripts/setup.sh dev
	@scripts/tools.sh
	@$(BIN)/python -m tests.hosts.demo

test-hosts: ## the long form of the tests of separate hosts: 36 partitions of three links (root; a quarter of an hour)
	@scripts/setup.sh dev
	@scripts/tools.sh
	@$(BIN)/python -m pytest --long tests/hosts

mutants: ## change machine, journal, admission and policy one place at a time: a test must notice (SAMPLE=n: so many)
	@scripts/setup.sh dev
	@$(BIN)/python -m tests.mutation.run --sample $(or $(SAMPLE),0)
