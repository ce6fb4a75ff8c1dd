//! `redrive`: arguments → configuration → client → one command → report → exit code. No logic lives here.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use quittance::clock::{SystemClock, WallClock as _, rfc3339};
use quittance::config::{Order, RedriveArgs, RedriveConfig, Surroundings, exit};
use quittance::pause::{Pause, PauseFile};
use quittance::start::{self, CannotStart};
use quittance::store::s3::{self, S3Store};

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
            eprintln!("{mistakes}");
            return ExitCode::from(exit::EX_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("redrive: cannot start: {error}");
            return ExitCode::from(exit::EX_TEMPFAIL);
        }
    };
    match runtime.block_on(run(config)) {
        Ok((report, code)) => {
            print!("{report}");
            ExitCode::from(code)
        }
        Err(cannot) => {
            eprintln!("redrive: {cannot}");
            ExitCode::from(cannot.code)
        }
    }
}

async fn run(config: RedriveConfig) -> Result<(String, u8), CannotStart> {
    let aws = start::aws().await?;
    let store = Arc::new(S3Store::new(s3::client(&aws)));
    let file = PauseFile { store, bucket: config.results_bucket };
    let done = match config.order {
        Order::Parked { namespace, order } => {
            let on_a_terminal = std::io::stderr().is_terminal() && !config.json;
            let tell = |line: &str| {
                if on_a_terminal {
                    eprint!("{line}");
                }
            };
            let by = format!("redrive parked by {}", whoami());
            let answer = start::parked::parked(order, namespace, &file, &aws, by, &tell).await?;
            return Ok((if config.json { answer.json } else { answer.text }, answer.code));
        }
        Order::Pause { reason, by } => {
            let (by, at) = (by.unwrap_or_else(whoami), rfc3339(SystemClock.unix_ms()));
            file.pause(&Pause { v: 1, reason, by, at }).await
        }
        Order::Resume => file.resume().await,
        Order::Status => file.status().await,
    };
    match done {
        Ok(report) => Ok((if config.json { report.json() } else { report.text() }, exit::EX_OK)),
        Err(error) => Err(start::no_pause_file(&file.bucket, &error)),
    }
}

/// `user@host`, as far as this machine knows.
fn whoami() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    format!("{}@{}", user.unwrap_or_else(|| "unknown".into()), start::host())
}
