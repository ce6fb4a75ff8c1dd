//! The `worker` binary on real services (LocalStack and OpenSearch): what an operator and an outside acceptance suite
//! see of it. One test binary, for it links once.
//!
//! Each test has queues, buckets and an index of its own, so that all can run side by side. Tests wait for conditions,
//! never for time; where something must *not* happen, the condition is one that would follow it.

// All of this is test code, though clippy only sees the functions marked as tests as such.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../browser/mod.rs"]
mod browser;
mod converged;
mod notify;
mod process;
mod redrive;
mod relay;
mod search;
mod stories;
mod terminal;
mod waiting;
mod world;

mod archive;
mod archive_cut;
mod body_shapes;
mod broken;
mod crash;
mod crash_loop;
mod dead_letters;
mod deploy;
mod faults;
mod inspect;
mod keys;
mod main_job;
mod migrate;
mod newest;
mod operator;
mod outage;
mod overwrite;
mod parked;
mod pause;
mod sharing;
mod shows;
mod stack;
mod start;
mod stop;
mod systemd;
mod trace;
mod upkeep;
