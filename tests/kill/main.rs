//! `kill -9`: real workers with failpoints (feature `failpoints`) on real services, killed at every one of them and at
//! random instants, and judged from outside: what was sent, what is in the buckets, the index and the queues. Nothing
//! that a worker says of itself counts, but for the times of receipts.
//!
//! The short version is part of `make test`; `make kill KILLS=2800` runs the long one. Tests carry the ids of the rows
//! of the fault catalogue that they show.

// All of this is test code, though clippy only sees the functions marked as tests as such.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// Shared with the tests of the plain binary, which use more of it.
#[path = "../worker/notify.rs"]
mod notify;
#[allow(dead_code)]
#[path = "../worker/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../worker/relay/mod.rs"]
mod relay;
#[allow(dead_code)]
#[path = "../worker/search.rs"]
mod search;
#[path = "../worker/waiting.rs"]
mod waiting;
#[allow(dead_code)]
#[path = "../worker/world.rs"]
mod world;

mod armed;
mod cell;
mod children;
mod lives;
mod outside;
mod starved;
mod steps;
mod storm;
mod terminal;
