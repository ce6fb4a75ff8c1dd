//! The side path measured on the local stack: documents into OpenSearch by bulk size, parking, replay, and what a sick
//! OpenSearch costs settlement.
//!
//! `localstack/stack exec -- cargo bench --bench side_path [-- bulk|park|replay|search|settle]`. All of a table is measured on
//! the same machine in one run and is meant as ratios: LocalStack is not S3, and one node on a laptop is no cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)] // a measuring tool, and parts of the tests' own

#[path = "../common/records.rs"]
mod records;

#[path = "../../tests/worker/process.rs"]
mod process;
#[path = "../../tests/worker/relay/mod.rs"]
mod relay;
#[path = "../../tests/worker/search.rs"]
mod search;
#[path = "../../tests/worker/waiting.rs"]
mod waiting;
#[path = "../../tests/worker/world.rs"]
mod world;

mod bulk;
mod parked;
mod settle;

use std::time::Duration;

fn main() {
    // `cargo test --all-targets` runs it too, to see that it starts; only `cargo bench` says this.
    if !std::env::args().any(|word| word == "--bench") {
        return println!("measures only by `cargo bench`");
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let all = wanted.is_empty();
        let is = |name: &str| all || wanted.iter().any(|word| word == name);
        if is("bulk") {
            bulk::measure().await;
        }
        if is("park") {
            parked::park().await;
        }
        if is("replay") {
            parked::replay().await;
        }
        if is("search") {
            parked::search().await;
        }
        if is("settle") {
            settle::measure().await;
        }
    });
}

/// So many in a time, per second.
fn rate(number: usize, took: Duration) -> f64 {
    number as f64 / took.as_secs_f64()
}
