//! `make simulate`: many trials of the crate's own pipeline on the model, each from its seed, on all cores.
//!
//! Prints seeds per second, and each failing seed with what it broke and how to replay it; a failing seed is exit
//! code 1. Reads its wishes from the environment, so that `cargo test` runs it as one of the tests.

#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::reader::TOLD_TO_PANIC;
use sim::trial::{self, Report, Want};

#[path = "../sim/mod.rs"]
mod sim;

/// Violations of one rule and seed that are printed.
const TOLD: usize = 3;
/// What `cargo test` runs.
const SEEDS: u64 = 2_000;

fn main() -> ExitCode {
    // As a test among others: listed as nothing, and left out when others are asked for by name.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    if args.iter().any(|arg| arg == "--list") || filter.is_some_and(|name| !"simulate".contains(name.as_str())) {
        return ExitCode::SUCCESS;
    }
    // Readers that panic are part of the plan.
    std::panic::set_hook(Box::new(|panic| {
        if !text_of(panic.payload()).is_some_and(|text| text.contains(TOLD_TO_PANIC)) {
            eprintln!("{panic}");
        }
    }));
    // A trial writes small files, thousands a second: in memory, where there is such a place.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        drop(tempfile::env::override_temp_dir(memory));
    }
    if let Some(seed) = wish("SEED") {
        return replay(seed, wish("TRACE") == Some(1));
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let from = wish("FROM").unwrap_or(0);
    run(from, from + wish("SEEDS").unwrap_or(SEEDS), wish("JOBS").unwrap_or(cores))
}

/// A number from the environment; an empty variable is none, as `make` hands it on.
fn wish(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn text_of(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}

fn replay(seed: u64, traced: bool) -> ExitCode {
    let report = trial::run(seed, if traced { Want::Trace } else { Want::Verdict });
    if traced {
        println!("{:#?}", report.plan);
        report.trace.iter().for_each(|line| println!("{line}"));
    }
    println!("seed {seed}: {} calls in {:?} of simulated time", report.calls, report.lasted);
    tell(seed, &report);
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first few of each rule: what is broken is often broken many times.
fn tell(seed: u64, report: &Report) {
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for violation in &report.violations {
        let times = told.entry(violation.rule).or_default();
        *times += 1;
        if *times <= TOLD {
            println!("seed {seed} breaks {}: {}", violation.rule, violation.what);
        }
    }
    for (rule, times) in told.into_iter().filter(|(_, times)| *times > TOLD) {
        println!("seed {seed} breaks {rule} {} times more", times - TOLD);
    }
}

#[derive(Default)]
struct Tally {
    failed: Vec<u64>,
    calls: u64,
    simulated: Duration,
    slowest: (Duration, u64),
}

fn run(from: u64, until: u64, jobs: u64) -> ExitCode {
    let (next, tally, began) = (AtomicU64::new(from), Mutex::new(Tally::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= until {
                        return;
                    }
                    one(seed, &tally);
                }
            });
        }
        if std::io::stderr().is_terminal() {
            while next.load(Ordering::Relaxed) < until {
                std::thread::sleep(Duration::from_secs(1));
                let done = next.load(Ordering::Relaxed).min(until) - from;
                eprint!("\r{done} of {} seeds, {:.0}/s ", until - from, done as f64 / began.elapsed().as_secs_f64());
            }
            eprintln!();
        }
    });
    let Tally { mut failed, calls, simulated, slowest } = tally.into_inner().unwrap();
    failed.sort_unstable();
    let (seeds, seconds) = (until - from, began.elapsed().as_secs_f64());
    println!(
        "{seeds} seeds ({from} to {}) in {seconds:.1} s: {:.0} seeds/s, {calls} calls, {:.0} simulated hours, {} failed; \
         the slowest is seed {} with {:.2} s",
        until.saturating_sub(1),
        seeds as f64 / seconds,
        simulated.as_secs_f64() / 3_600.0,
        failed.len(),
        slowest.1,
        slowest.0.as_secs_f64()
    );
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failing seeds: {failed:?}; replay one with `make simulate SEED={} TRACE=1`", failed[0]);
    ExitCode::FAILURE
}

fn one(seed: u64, tally: &Mutex<Tally>) {
    let began = Instant::now();
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| trial::run(seed, Want::Verdict)));
    let mut tally = tally.lock().unwrap();
    tally.slowest = tally.slowest.max((began.elapsed(), seed));
    match ran {
        Ok(report) => {
            tell(seed, &report);
            tally.calls += report.calls as u64;
            tally.simulated += report.lasted;
            if !report.violations.is_empty() {
                tally.failed.push(seed);
            }
        }
        Err(panic) => {
            println!("seed {seed} panics: {}", text_of(panic.as_ref()).unwrap_or_default());
            tally.failed.push(seed);
        }
    }
}
