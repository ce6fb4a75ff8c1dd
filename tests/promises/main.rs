//! The promises of design §3, one file each: the crate's own pipeline on the model, under a paused clock.
//!
//! Nothing here waits for the wall's time. Every run ends with the books compared to the queue's own memory.

// All of this is test code, though clippy only sees the functions marked as tests as such.
#![allow(clippy::unwrap_used)]

mod attempts;
mod begun_marks;
mod crash_loop;
mod dead_letter;
mod guard;
mod lease;
mod newest_wins;
mod settlement;
mod side_path;
mod simulation;

#[path = "../sim/mod.rs"]
mod sim;
