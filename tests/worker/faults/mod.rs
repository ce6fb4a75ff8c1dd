//! Every operation of the worker × every class of error × position, on the real binary behind the proxy.
//!
//! A handful of cells, each with a worker that lives through row after row, take the table from one list. In
//! `make test` a covering of it (each operation with each class, in one position), in `make faults` all of it.
//! The rows' names begin with their row in the catalogue of faults; QUITTANCE_FAULT_ROWS chooses those that contain it
//! (`Q5 Delete`). Rows that are a story of their own are in [`rows`], the calls at start in [`start`]; P2 and P3, the
//! stop in mid work, are in `stop.rs`, B13 (a removal that comes late) in `overwrite.rs`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};

use cell::Cell;
use table::{Class, Op, Row, Service};

use crate::search::Search;
use crate::stories::text;
use crate::world::World;

mod cell;
mod covering;
mod ledger;
mod plan;
mod rows;
mod start;
mod table;

/// Cells at a time: they wait far more than they work,
const CELLS: usize = 40;
/// but not while they are made.
const STARTS: usize = 6;

/// About how long a row takes, in seconds: the long ones go first.
fn weight(row: &Row) -> u32 {
    let replays = matches!(row.op, Op::PutMarker | Op::ListMarkers | Op::GetParked | Op::DeleteMarker | Op::Bulk);
    let held_up = match (row.op.service(), row.class) {
        (Service::S3, Class::Drip | Class::Stall) => 30,
        (_, Class::Drip | Class::Stall | Class::Hang | Class::HangAfter) => 15,
        (_, _) => 5,
    };
    held_up + if replays || row.op == Op::ProbeBucket { 10 } else { 0 }
}

/// Takes rows off the list until it is empty; what went wrong.
async fn lane(
    rows: Arc<Mutex<VecDeque<Row>>>,
    index: Arc<Search>,
    starts: Arc<Semaphore>,
    times: Arc<Mutex<Vec<(Duration, String)>>>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut cell = None;
    let mut met = Vec::new();
    loop {
        let Some(row) = rows.lock().unwrap().pop_front() else { break };
        let began = Instant::now();
        let living = cell.take();
        let (index, starts) = (Arc::clone(&index), Arc::clone(&starts));
        let task = spawn_local(async move {
            let cell = match living {
                Some(cell) => cell,
                None => {
                    let _turn = starts.acquire().await;
                    Cell::start(&index).await
                }
            };
            cell.meet(row).await
        });
        match task.await {
            Ok(well) => {
                cell = Some(well);
                met.push(row.name());
            }
            Err(panic) => {
                wrong.push(format!("{}: {} (before it: {met:?})", row.name(), text(panic)));
                met.clear();
            }
        }
        times.lock().unwrap().push((began.elapsed(), row.name()));
    }
    if let Some(cell) = cell {
        match spawn_local(cell.end()).await {
            Ok(busiest) => eprintln!("{} rows; the most calls in a second: {busiest:?}", met.len()),
            Err(panic) => wrong.push(format!("the end after {met:?}: {}", text(panic))),
        }
    }
    wrong
}

#[tokio::test]
#[ignore = "needs the local stack: make test; all positions: make faults"]
async fn every_operation_survives_every_fault_and_heals() {
    LocalSet::new().run_until(the_table()).await;
}

async fn the_table() {
    let all = std::env::var_os("QUITTANCE_FAULTS").is_some_and(|which| which == "all");
    let only = std::env::var("QUITTANCE_FAULT_ROWS").unwrap_or_default();
    let mut rows: Vec<Row> = covering::rows(all).into_iter().filter(|row| row.name().contains(&only)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(weight(row)));
    let (number, began) = (rows.len(), Instant::now());
    let owner = World::silent().await;
    let index = Arc::new(Search::borrowed(&owner.search.alias));
    let (rows, times) = (Arc::new(Mutex::new(VecDeque::from(rows))), Arc::new(Mutex::new(Vec::new())));
    let starts = Arc::new(Semaphore::new(STARTS));
    let lanes: Vec<_> = (0..CELLS.min(number))
        .map(|_| spawn_local(lane(Arc::clone(&rows), Arc::clone(&index), Arc::clone(&starts), Arc::clone(&times))))
        .collect();
    let mut wrong = Vec::new();
    for lane in lanes {
        wrong.extend(lane.await.unwrap());
    }
    let mut times = std::mem::take(&mut *times.lock().unwrap());
    times.sort();
    let slowest: Vec<String> = times.iter().rev().take(8).map(|(time, name)| format!("{name} {time:.0?}")).collect();
    eprintln!("{number} rows in {:.0?}; the slowest: {slowest:?}", began.elapsed());
    assert!(wrong.is_empty(), "{} of {number} rows failed:\n{}", wrong.len(), wrong.join("\n\n"));
}
