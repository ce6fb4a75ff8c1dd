//! The way back from the dead-letter queue (design §7, P9): what was given up on, why, and the road back.
//!
//! Promises that a letter leaves the DLQ only after an acknowledged send, re-index or archive, or a proof that its work
//! is done. What is moved is moved byte for byte. Receives under the worker's own lease, and settles through the
//! worker's own settler.

mod act;
mod ahead;
pub mod archive;
pub mod audit;
pub mod command;
pub mod decide;
pub mod drain;
pub mod expiry;
mod gather;
pub mod hold;
pub mod inspect;
pub mod letter;
pub mod look;
pub mod pair;
pub mod plan;
pub mod report;
pub mod select;
mod watch;
