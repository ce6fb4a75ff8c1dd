//! A real OpenSearch that really breaks (P4): what a document meets there, and that all is well once it is over.
//!
//! In [`index`] the index breaks under a node that is well: read-only blocks, a lost alias, a mapping that refuses some
//! documents, replies that are late or out of order. In [`node`] a node of the test's own breaks: too small for a request,
//! killed in mid bulk, away for a while. Every story ends with the one checker (`converged.rs`). Stories side by side, each
//! with queue, buckets and index of its own, for they mostly wait; QUITTANCE_STORY chooses those of [`index`] by name.
//!
//! Shown elsewhere, with the proxy, by `faults/mod.rs` (its rows O1 to O16 of operation `Bulk`): connections refused and
//! reset, 401, 403, 429, 500, 503, 404, a block told of the whole request, replies cut, stalled, dripping, empty, of
//! somebody else, requests that hang before their effect or after it, lost replies, refused items.

mod index;
mod node;
mod own_node;
