//! `worker`: arguments → configuration → clients → run → drain → exit code. No logic lives here.

use std::process::ExitCode;
use std::sync::Arc;

use quittance::clock::SystemClock;
use quittance::config::{Args, BeforeStart, Mistakes, Surroundings, Task, WorkerConfig, exit};
use quittance::events::Event as _;
use quittance::lease::Pulse;
use quittance::metrics::{Meters, emf::Teller};
use quittance::shutdown::{Hangups, Signals, Stop};
use quittance::start::CannotStart;
use quittance::start::migrate::Wishes;
use quittance::supervise::{self, Alive, Reload};
use quittance::telemetry::{self, Dial, Identity};
use quittance::terminal::page;
use quittance::{check, events, process, start};

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print(); // nobody to tell that nobody can be told
            return ExitCode::from(exit::of_usage(&error));
        }
    };
    let task = args.task();
    if task == Task::ExtractChild {
        return process::extract::child_main(); // before any configuration, client or thread
    }
    #[cfg(feature = "failpoints")]
    if let Err(mistake) = quittance::failpoint::arm() {
        eprintln!("{mistake}");
        return ExitCode::from(exit::EX_CONFIG);
    }
    let config = match WorkerConfig::from_args(&args, &Surroundings::of_process()) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(exit::EX_CONFIG);
        }
    };
    let identity =
        Identity { run_id: uuid::Uuid::now_v7().to_string(), namespace: config.namespace.as_str().to_owned() };
    let run_id = identity.run_id.clone();
    let meters = Meters::new(Arc::default(), Arc::new(SystemClock));
    let (dial, log) = match telemetry::install_queued(config.log_format, &config.log_level, identity, &meters) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("worker: cannot start its threads: {error}");
            return ExitCode::from(exit::EX_TEMPFAIL);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("worker: cannot start its threads: {error}");
            return ExitCode::from(exit::EX_TEMPFAIL);
        }
    };
    let ended = runtime.block_on(async {
        match task {
            Task::Run | Task::ExtractChild => {
                let read = Box::new(move || WorkerConfig::from_args(&args, &Surroundings::of_process()));
                run(&config, &run_id, meters, read, dial).await
            }
            Task::SetupIndex => setup_index(&config).await,
            Task::MigrateIndex { rebuild, leave_behind, json } => {
                migrate_index(&config, Wishes { anew: rebuild, leave_behind, json }).await
            }
            Task::Check { json, deep, before_start } => doctor(&config, json, deep, before_start).await,
        }
    });
    // Extraction children and parked polls have nothing left to say: do not wait for them.
    runtime.shutdown_background();
    log.flush();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(cannot) => {
            eprintln!("worker: {cannot}");
            ExitCode::from(cannot.code)
        }
    }
}

type Read = Box<dyn Fn() -> Result<WorkerConfig, Mistakes> + Send + Sync>;

async fn run(
    config: &WorkerConfig,
    run_id: &str,
    meters: Arc<Meters>,
    read: Read,
    dial: Dial,
) -> Result<u8, CannotStart> {
    let worker = start::worker(config, &start::aws().await?, run_id, meters).await?;
    let stop = Stop::default();
    let deaf = |error| CannotStart { line: format!("cannot listen to signals: {error}"), code: exit::EX_TEMPFAIL };
    let signals = Signals::take().map_err(deaf)?;
    tokio::spawn(signals.obey(stop.clone(), worker.pipeline.gate.clone()));
    let reload = Reload { read, limits: worker.pipeline.limits.clone(), dial };
    tokio::spawn(reload.run(Hangups::take().map_err(deaf)?));
    if let Some(admin) = worker.admin {
        tokio::spawn(admin.serve());
    }
    worker.surveyor.map(|surveyor| tokio::spawn(surveyor.run()));
    let teller = config.metrics_emf.then(|| Arc::new(Teller::new(worker.facts.clone())));
    if let Some(teller) = &teller {
        tokio::spawn(Arc::clone(teller).run());
    }
    tokio::spawn(supervise::tell_of_the_stop(stop.stop.clone()));
    let (ledger, gate) = (worker.pipeline.books.clone(), worker.pipeline.gate.clone());
    let (books, facts, stopping) = (ledger.clone(), worker.facts, stop.stop.clone());
    let ready = |pulse: Pulse| {
        facts.attach(pulse.clone(), stopping);
        worker.ready.emit();
        supervise::ready();
        tokio::spawn(Alive { pulse, books, gate }.run());
    };
    let ended = worker.pipeline.run(stop, ready).await;
    if let Some(teller) = teller {
        teller.tell(); // what the last minute brought
    }
    match ended {
        Ok(books) => {
            let books = books.checked();
            books.emit();
            Ok(books.exit_code())
        }
        Err(broken) => {
            events::SettlerBroke { detail: broken.to_string() }.emit();
            ledger.snapshot(true).emit();
            Ok(exit::EX_BOOKS)
        }
    }
}

async fn setup_index(config: &WorkerConfig) -> Result<u8, CannotStart> {
    let Some(index) = start::search_index(config, &start::aws().await?)? else {
        return Err(CannotStart {
            line: "SKIP_OPENSEARCH is set: there is no index to set up".into(),
            code: exit::EX_CONFIG,
        });
    };
    match index.setup_index(config.analyzer).await {
        Ok(report) => {
            page(&report.to_string());
            Ok(if report.has_conflicts() { exit::EX_CONFIG } else { exit::EX_OK })
        }
        Err(error) => Err(start::no_index(&error)),
    }
}

async fn migrate_index(config: &WorkerConfig, wishes: Wishes) -> Result<u8, CannotStart> {
    let (report, code) = start::migrate::migrate(config, &start::aws().await?, wishes).await?;
    page(&report);
    Ok(code)
}

async fn doctor(config: &WorkerConfig, json: bool, deep: bool, before_start: bool) -> Result<u8, CannotStart> {
    if before_start && config.check_before_start == BeforeStart::Off {
        return Ok(exit::EX_OK);
    }
    let findings = start::doctor::findings(config, &start::aws().await?, deep).await?;
    page(&if json { check::json(&findings) } else { check::text(&findings) });
    Ok(match (before_start, config.check_before_start) {
        (false, _) => check::exit_code(&findings),
        (true, BeforeStart::Fail) => check::exit_code_before_start(&findings),
        (true, BeforeStart::Warn | BeforeStart::Off) => exit::EX_OK,
    })
}
