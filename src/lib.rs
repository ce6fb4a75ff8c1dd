//! quittance: an SQS worker that settles every message it receives.
//!
//! ```text
//!  S3 event ──> SQS ──> receive ──> lease ──> process ────────────> settle ──> delete | dead-letter+delete | return
//!                         ^           │          │                    ^
//!                      permits    heartbeat   fetch → extract → record│   (record = durable result in S3)
//!                                                          │          │
//!                                                          └─> index ─┘   bulk → OpenSearch
//!                                                                └─> park → S3 retry-index/ ──> replay
//! ```
//!
//! Data flows one way. `process` knows no queue, no lease, no index client; `index` knows no lease; `settle`
//! alone calls delete, change-visibility and send-to-DLQ.
//!
//! # Promises
//!
//! - **P1** One settlement per receipt, however its scope ends.
//! - **P2** No verdict means *return*: the guard never deletes by default.
//! - **P3** Nothing is deleted before it is durable.
//! - **P4** Index trouble is never message trouble.
//! - **P5** Guaranteed deletion: every message leaves the queue within its attempt budget.
//! - **P6** An outage is not a verdict.
//! - **P7** No work without a lease; a permit is free only when the work, children included, has stopped.
//! - **P8** Newest wins.
//! - **P9** Redrive is idempotent: killed anywhere and run again, the end is that of one clean run.
//! - **P10** The books balance.
//!
//! Not promised: exactly-once execution (duplicates are possible and harmless), order across keys, survival of
//! queue retention or purges, FIFO queues.

#[macro_use]
pub mod failpoint; // first: a macro is known to what comes after it

pub mod admin;
pub mod attempts;
pub mod aws;
pub mod books;
pub mod breaker;
pub mod check;
pub mod clock;
pub mod config;
pub mod crash_loop;
pub mod dead_letter;
pub mod events;
pub mod gate;
pub mod heartbeat;
pub mod index;
pub mod lease;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod outcome;
pub mod pause;
pub mod pipeline;
pub mod process;
pub mod queue;
pub mod receive;
pub mod redrive;
pub mod retry;
pub mod settle;
pub mod shutdown;
pub mod spawn;
pub mod start;
pub mod store;
pub mod supervise;
pub mod survey;
pub mod telemetry;
pub mod terminal;
pub mod trace;
pub mod upkeep;
mod word;
