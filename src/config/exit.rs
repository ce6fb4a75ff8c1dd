//! Exit codes: the contract of design §8, in one place.
//!
//! Scripts and unit files hang on these numbers. Promises that `--help` lists exactly them (a test compares).

/// Well: stopped as asked, books balanced.
pub const EX_OK: u8 = 0;
/// `worker check`: at least one check failed.
pub const EX_CHECK_FAILED: u8 = 1;
/// `redrive`: some of it was done, and some was not; or something was found.
pub const EX_PARTIAL: u8 = 3;
/// `redrive`: refused, nothing was done: the fleet is paused, or another is at it.
pub const EX_REFUSED: u8 = 4;
/// Bad usage: an unknown flag or subcommand.
pub const EX_USAGE: u8 = 64;
/// The books do not balance.
pub const EX_BOOKS: u8 = 70;
/// A dependency is not there at start: no such queue, no such bucket, no credentials.
pub const EX_TEMPFAIL: u8 = 75;
/// Bad configuration: a value missing, malformed or contradicting another.
pub const EX_CONFIG: u8 = 78;
/// `redrive`: interrupted; it says how to go on.
pub const EX_INTERRUPTED: u8 = 130;

/// The code for what clap says: help and version are answers, the rest is bad usage.
pub fn of_usage(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion) { EX_OK } else { EX_USAGE }
}
