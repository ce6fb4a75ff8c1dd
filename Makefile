# The two commands, `make demo` and `make test`, and their pieces. Each sets up all it needs (localstack/stack) and
# says at once, before any long step, what has to be installed first.
.PHONY: help demo drill-dlq drill-opensearch-down drill-poison test faults histories bench bench-redrive up down status fmt lint doc deny scripts unit real kill build-kill simulate bugs protocol
.DEFAULT_GOAL := help

STACK := localstack/stack
export CARGO_TERM_PROGRESS_WHEN ?= never

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "  QUITTANCE_CACHE says where downloads are kept, QUITTANCE_NO_DOCKER=1 does without a Docker daemon."

demo: ## the main job on the local stack, shown and checked (ARGS=--count: count the calls to S3 and SQS)
	@$(STACK) demo $(ARGS)

drill-dlq: ## rehearse deploy/RUNBOOK.md: forty letters in the dead-letter queue, and the way back
	@$(STACK) drill dlq

drill-opensearch-down: ## rehearse: search goes away in the middle of work, and comes back
	@$(STACK) drill opensearch-down

drill-poison: ## rehearse: what can never be done is dead-lettered, archived, looked at, restored
	@$(STACK) drill poison

test: ## everything that must pass
	@localstack/test.sh

faults: ## the whole table of faults, every operation x error x position (make test runs a covering of it)
	QUITTANCE_FAULTS=all $(STACK) exec -- cargo test --locked --test worker -- --include-ignored --nocapture faults

histories: ## newest wins on the real services, HISTORIES=200 [FROM=0] (make test runs eight)
	QUITTANCE_HISTORIES=$(or $(HISTORIES),200) QUITTANCE_SEED=$(or $(FROM),0) \
		$(STACK) exec -- cargo test --locked --test worker -- --include-ignored --nocapture newest

bench: ## documents/s, parking, replay and settlement on the local stack, as ratios (WHAT=bulk|park|replay|search|settle for one)
	$(STACK) exec -- cargo bench --locked --bench side_path -- $(WHAT)

bench-redrive: ## the way back from the DLQ against a plain loop, LETTERS=8158
	QUITTANCE_LETTERS=$(or $(LETTERS),8158) $(STACK) exec -- cargo bench --locked --bench redrive

up: ## a stack that stays, with queues and buckets, and three commands to try
	@$(STACK) up

down: ## end it
	@$(STACK) down

status: ## is it up?
	@$(STACK) status

simulate: ## the pipeline on the model, SEEDS=10000 [FROM=0] [JOBS=2] trials; SEED=12345 [TRACE=1] replays one
	@SEEDS=$(or $(SEEDS),10000) FROM=$(FROM) JOBS=$(JOBS) SEED=$(SEED) TRACE=$(TRACE) \
		cargo test --locked --profile simulate --test simulate

# One search at a time: each may take some GiB.
protocol: ## model-checks the protocol of record, index, park and replay further, BOUNDS=faults=1,changes=4 [TESTS=histories]
	BOUNDS=$(or $(BOUNDS),faults=2) cargo test --locked --profile simulate --test protocol -- --nocapture --test-threads 1 \
		$(or $(TESTS),keep_their_promises)

bugs: ## shows that the simulation can fail: puts eight known bugs in, one by one, and demands that each is found
	@tests/bugs/run $(BUGS)

fmt: ## is the code formatted?
	cargo fmt --check

lint: ## clippy, warnings are errors
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --test kill --features failpoints --locked -- -D warnings

doc: ## the documentation builds without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

deny: ## bans, licences and sources of the dependencies
	$(STACK) cargo-deny check bans licenses sources

scripts: ## shell and Python parse; the samples are what their generator makes
	$(STACK) scripts

unit: ## the tests that need no services
	cargo test --locked --all-targets

real: ## all tests, with the stack beside them
	$(STACK) exec -- cargo test --locked --all-targets -- --include-ignored

# A worker with failpoints in it (feature `failpoints`), in the same target folder: only this package is built again.
# All tests at a time, for they mostly wait for leases to end.
KILL_TESTS = cargo test --locked --features failpoints --test kill --test failpoints

build-kill:
	$(KILL_TESTS) --no-run

kill: build-kill ## kill -9 at every failpoint and at random instants (KILLS=2800 CELLS=6 SEED=1: many, with a table)
	KILLS=$(KILLS) CELLS=$(CELLS) SEED=$(SEED) $(STACK) exec -- $(KILL_TESTS) -- --include-ignored --test-threads 16 \
		$(if $(KILLS),--nocapture a0_2 a1_1)
