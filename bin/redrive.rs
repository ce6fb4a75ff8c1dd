//! `redrive`: arguments → configuration → client → one command → report → exit code. No logic lives here.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use quittance::clock::{SystemClock, WallClock as _, rfc3339};
use quittance::config::{Order, RedriveArgs, RedriveConfig, Surroundings, exit};
use quittance::message::Namespace;
use quittance::pause::{Pause, PauseFile, operator};
use quittance::redrive;
use quittance::start::{self, CannotStart};
use quittance::store::StoreError;
use quittance::store::s3::{self, S3Store};
use quittance::telemetry::{self, Identity};
use quittance::terminal::{Page, page, say};
use quittance::trace;
use quittance::upkeep::command;

fn main() -> ExitCode {
    let args = match RedriveArgs::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print(); // nobody to tell that nobody can be told
            return ExitCode::from(exit::of_usage(&error));
        }
    };
    let config = match RedriveConfig::from_args(&args, &Surroundings::of_process()) {
        Ok(config) => config,
        Err(mistakes) => {
            say(&mistakes.to_string());
            return ExitCode::from(exit::EX_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("redrive: cannot start: {error}"));
            return ExitCode::from(exit::EX_TEMPFAIL);
        }
    };
    match runtime.block_on(run(config)) {
        Ok(code) => ExitCode::from(code),
        Err(cannot) => {
            say(&format!("redrive: {cannot}"));
            ExitCode::from(cannot.code)
        }
    }
}

async fn run(config: RedriveConfig) -> Result<u8, CannotStart> {
    let RedriveConfig { order, results_bucket, json, log_format } = config;
    let run_id = uuid::Uuid::now_v7().to_string();
    let log_at = |level: &str, namespace: &Namespace| {
        let (run_id, namespace) = (run_id.clone(), namespace.to_string());
        drop(telemetry::install(log_format, level, Identity { run_id, namespace }));
    };
    let log = |namespace: &Namespace| log_at("info", namespace);
    let place = command::Place { results_bucket, json };
    match order {
        Order::Pause { reason, by } => {
            let (by, at) = (by.unwrap_or_else(whoami), rfc3339(SystemClock.unix_ms()));
            let file = pause_file(place).await?;
            told(&file, file.pause(&Pause { v: 1, reason, by, at }).await, json)
        }
        Order::Resume => {
            let file = pause_file(place).await?;
            told(&file, file.resume().await, json)
        }
        Order::Status => {
            let file = pause_file(place).await?;
            told(&file, file.status().await, json)
        }
        Order::Parked { namespace, order } => {
            let aws = start::aws().await?;
            let store = Arc::new(S3Store::new(s3::client(&aws)));
            let file = PauseFile { store, bucket: place.results_bucket };
            let progress = Page::new(json);
            let tell = |line: &str| progress.line(line);
            let by = format!("redrive parked by {}", whoami());
            let answer = start::parked::parked(order, namespace, &file, &aws, by, &tell).await?;
            page(if json { &answer.json } else { &answer.text });
            Ok(answer.code)
        }
        Order::Inspect(config) => {
            log_at("warn", &config.namespace);
            start::inspect::inspect(*config, place).await
        }
        Order::Archive(order) => {
            let run_id = uuid::Uuid::now_v7().to_string();
            let identity = Identity { run_id: run_id.clone(), namespace: String::new() };
            drop(telemetry::install(log_format, "warn", identity));
            start::archive::archive(*order, place, &run_id).await
        }
        Order::Reconcile(config) => {
            log(&config.namespace);
            command::reconcile(*config, place).await
        }
        Order::Reprocess(config) => {
            log(&config.namespace);
            command::reprocess(*config, place).await
        }
        Order::PurgeTombstones(config) => {
            log(&config.namespace);
            command::purge(*config, place).await
        }
        Order::Plan(config) => {
            log_at("warn", &config.namespace);
            redrive::command::plan(*config, place).await
        }
        Order::Drain(config) => {
            // A line for each letter is for those who collect them; a person watches the bar.
            log_at(if std::io::stderr().is_terminal() { "warn" } else { "info" }, &config.namespace);
            redrive::command::drain(*config, place, run_id.clone()).await
        }
        Order::Search(config) => command::find(*config, json).await,
        Order::Trace(config) => trace::command::trace(*config, place.results_bucket, json).await,
    }
}

async fn pause_file(place: command::Place) -> Result<PauseFile, CannotStart> {
    let store = Arc::new(S3Store::new(s3::client(&start::aws().await?)));
    Ok(PauseFile { store, bucket: place.results_bucket })
}

fn told(file: &PauseFile, done: Result<operator::Report, StoreError>, json: bool) -> Result<u8, CannotStart> {
    let report = done.map_err(|error| start::no_pause_file(&file.bucket, &error))?;
    page(&if json { report.json() } else { report.text() });
    Ok(exit::EX_OK)
}

/// `user@host`, as far as this machine knows.
fn whoami() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    format!("{}@{}", user.unwrap_or_else(|| "unknown".into()), start::host())
}
