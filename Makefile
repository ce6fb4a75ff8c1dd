# The two commands, `make demo` and `make test`, and their pieces. Each sets up all it needs (localstack/stack) and
# says at once, before any long step, what has to be installed first.
.PHONY: help demo test up down status fmt lint doc deny scripts unit real simulate bugs
.DEFAULT_GOAL := help

STACK := localstack/stack
export CARGO_TERM_PROGRESS_WHEN ?= never

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "  QUITTANCE_CACHE says where downloads are kept, QUITTANCE_NO_DOCKER=1 does without a Docker daemon."

demo: ## the main job on the local stack, shown and checked (ARGS=--count: count the calls to S3 and SQS)
	@$(STACK) demo $(ARGS)

test: ## everything that must pass
	@localstack/test.sh

up: ## a stack that stays, with queues and buckets, and three commands to try
	@$(STACK) up

down: ## end it
	@$(STACK) down

status: ## is it up?
	@$(STACK) status

simulate: ## the pipeline on the model, SEEDS=10000 [FROM=0] [JOBS=2] trials; SEED=12345 [TRACE=1] replays one
	@SEEDS=$(or $(SEEDS),10000) FROM=$(FROM) JOBS=$(JOBS) SEED=$(SEED) TRACE=$(TRACE) \
		cargo test --locked --profile simulate --test simulate

bugs: ## shows that the simulation can fail: puts eight known bugs in, one by one, and demands that each is found
	@tests/bugs/run $(BUGS)

fmt: ## is the code formatted?
	cargo fmt --check

lint: ## clippy, warnings are errors
	cargo clippy --all-targets --locked -- -D warnings

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
