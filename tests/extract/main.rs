//! Extraction, format by format and child by child: files are built here, byte by byte.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod mail;
mod never_panics;
mod office;
mod pdf;
mod pool;
mod samples;
mod text;
