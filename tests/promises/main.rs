//! The promises of design §3, one file each: the crate's own pipeline on the model, under a paused clock.
//!
//! Nothing here waits for the wall's time. Every run ends with the books compared to the queue's own memory.

// All of this is test code, though clippy only sees the functions marked as tests as such.
#![allow(clippy::unwrap_used)]

mod a0_shutdown;
mod a1_stuck;
mod a2_deduplication;
mod a4_stampede;
mod archive;
mod attempts;
mod begun_marks;
mod canary;
mod catalogue;
mod crash_loop;
mod dead_letter;
mod drain;
mod guard;
mod index_load;
mod inspect;
mod intake;
mod judge;
mod lease;
mod many_changes;
mod newest_wins;
mod outage;
mod page;
mod parked;
mod pause;
mod permits;
mod replay;
mod settlement;
mod side_path;
mod simulation;
mod starved;
mod trace;
mod upkeep;

#[path = "../sim/mod.rs"]
mod sim;

#[path = "../browser/mod.rs"]
mod browser;
