#!/usr/bin/env bash
# `make test`: everything that must pass, in the order in which it is cheap to fail.
# Promises to say what is missing before any long step, to show each step's time, and to end at the first that fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stack=localstack/stack

step() { # heading, then a command
  local name=$1 began=$SECONDS; shift
  printf '\n==== %s  [%d s]\n' "$name" "$SECONDS"
  if "$@"; then printf '==== %s: passed in %d s\n' "$name" $((SECONDS - began)); return; fi
  printf '==== %s: FAILED after %d s (%d s in all)\n' "$name" $((SECONDS - began)) "$SECONDS" >&2
  exit 1
}
built_worker() { # where cargo puts it: CARGO_TARGET_DIR and configuration files may say so
  printf '%s/debug/worker\n' "$(cargo metadata --locked --no-deps --format-version 1 |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')"
}
demo() { # by the worker that the tests have built: a `cargo build` of its own would build half of it again
  WORKER_BIN=$(built_worker) "$stack" demo
}

step "what has to be here"               "$stack" check
step "LocalStack and OpenSearch"         "$stack" install
step "format"                            make --no-print-directory fmt
step "scripts and samples"               make --no-print-directory scripts
step "the eight bugs still apply"        tests/bugs/run check
step "clippy"                            make --no-print-directory lint
step "documentation"                     make --no-print-directory doc
step "bans, licences, sources"           make --no-print-directory deny
# built first: the stack need not run while the compiler does
step "build the tests"                   cargo test --locked --all-targets --no-run
step "all tests, with the real services" make --no-print-directory real
step "documentation tests"               cargo test --locked --doc
step "the demo"                          demo
# last: it puts another worker in the place of the one that the demo shows
step "build a worker with failpoints"    make --no-print-directory build-kill
step "kill -9, at failpoints and at random" make --no-print-directory kill
printf '\n==== all passed in %d s\n' "$SECONDS"
