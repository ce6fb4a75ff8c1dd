//! A `worker` process: started with an environment and nothing else, its log readable while it runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::waiting::{LONG, eventually, holds};

/// What a worker is to be started with.
#[derive(Clone)]
pub struct Launch {
    pub program: PathBuf,
    pub environment: BTreeMap<String, String>,
}

impl Launch {
    /// The stack's AWS settings and nothing of the caller's own.
    pub fn bare() -> Self {
        let kept = std::env::vars()
            .filter(|(name, _)| name.starts_with("AWS_") || ["PATH", "HOME", "NO_PROXY"].contains(&name.as_str()));
        Self { program: env!("CARGO_BIN_EXE_worker").into(), environment: kept.collect() }
    }

    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    pub fn unset(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.environment).stdin(Stdio::null());
        command
    }

    /// Starts `worker` and waits for its `ready`.
    pub async fn start(&self) -> Worker {
        let mut worker = self.spawn();
        eventually("the worker's ready line", LONG, async || {
            assert_eq!(worker.ended(), None, "the worker ended before it was ready");
            worker.facts("ready").pop().ok_or("nothing")
        })
        .await;
        worker
    }

    /// Starts `worker`.
    pub fn spawn(&self) -> Worker {
        let mut child = self.command(&self.program, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log: Arc<Mutex<Vec<Line>>> = Arc::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).map_or(Line::Odd(line), Line::Fact);
                written.lock().unwrap().push(line);
            }
        });
        Worker { child, log, reader: Some(reader) }
    }

    /// Starts `worker` with a log that nobody reads.
    #[allow(dead_code)] // by `tests/kill`, which shares this file
    pub fn spawn_unread(&self) -> Child {
        self.command(&self.program, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command of `worker` to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_program(&self.program, arguments)
    }

    /// Runs a command of `redrive` to its end.
    pub fn redrive(&self, arguments: &[&str]) -> Output {
        self.run_program(Path::new(env!("CARGO_BIN_EXE_redrive")), arguments)
    }

    /// Starts a command of `redrive`.
    pub fn spawn_redrive(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_redrive")), arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The same, unheard: a line for each letter would fill a pipe that nobody reads.
    pub fn spawn_redrive_unheard(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_redrive")), arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Starts a command of `redrive` as leader of a session on the terminal that its stdin is, if it is one: as a login
    /// shell does it, so that Ctrl-C reaches it, and SIGHUP when the terminal goes away.
    #[allow(dead_code)] // by `tests/kill`, which shares this file
    pub fn spawn_redrive_leading(&self, arguments: &[&str], [stdin, stdout, stderr]: [Stdio; 3]) -> Child {
        let mut command = self.command(Path::new("setsid"), &["--ctty", env!("CARGO_BIN_EXE_redrive")]);
        command.args(arguments).stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap()
    }

    fn run_program(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = self.command(program, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = child.wait().unwrap().code();
        Output { code: code.expect("an exit code"), stdout: reader.join().unwrap().unwrap(), stderr }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Clone)]
enum Line {
    Fact(Value),
    /// Not JSON.
    Odd(String),
}

/// A running worker; killed when dropped.
pub struct Worker {
    child: Child,
    log: Arc<Mutex<Vec<Line>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    /// `/metrics` now: series to value.
    pub async fn scrape(&self) -> BTreeMap<String, String> {
        let address = self.fact("ready").await["admin"].as_str().expect("an address").to_owned();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let series = text.lines().filter(|line| line.starts_with("quittance_"));
        series
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn lines(&self) -> Vec<Line> {
        self.log.lock().unwrap().clone()
    }

    /// Lines that are not JSON.
    pub fn odd_lines(&self) -> Vec<String> {
        let odd = |line| if let Line::Odd(text) = line { Some(text) } else { None };
        self.lines().into_iter().filter_map(odd).collect()
    }

    /// All facts so far.
    pub fn all_facts(&self) -> Vec<Value> {
        let fact = |line| if let Line::Fact(fact) = line { Some(fact) } else { None };
        self.lines().into_iter().filter_map(fact).collect()
    }

    /// The facts of this name so far.
    pub fn facts(&self, event: &str) -> Vec<Value> {
        self.all_facts().into_iter().filter(|fact| fact["event"] == event).collect()
    }

    /// Waits for a fact.
    pub async fn fact(&self, event: &str) -> Value {
        eventually(&format!("a line {event}"), LONG, async || self.facts(event).pop().ok_or("nothing")).await
    }

    /// Waits until this many receipts are settled; their lines.
    pub async fn settled(&self, number: usize) -> Vec<Value> {
        eventually(&format!("{number} message_settled lines"), LONG, async || {
            let settled = self.facts("message_settled");
            if settled.len() >= number { Ok(settled) } else { Err(settled.len()) }
        })
        .await
    }

    /// Waits for the settlements of these messages (their last, where there are several), in this order.
    pub async fn settled_messages(&self, ids: &[String]) -> Vec<Value> {
        eventually("a message_settled line for each message", LONG, async || {
            let settled = self.facts("message_settled");
            let last = |id: &String| settled.iter().rev().find(|fact| fact["message_id"] == **id).cloned();
            ids.iter().map(|id| last(id).ok_or_else(|| id.clone())).collect::<Result<Vec<_>, _>>()
        })
        .await
    }

    /// How many lines there are of a kind, without copying them.
    pub fn count(&self, is: impl Fn(&Value) -> bool) -> usize {
        let is = |line: &&Line| if let Line::Fact(fact) = line { is(fact) } else { false };
        self.log.lock().unwrap().iter().filter(is).count()
    }

    /// Receipts that were received and not settled yet.
    pub fn in_hand(&self) -> usize {
        let of = |event: &str| self.count(|fact| fact["event"] == event);
        of("message_received") - of("message_settled")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// Of one that is dead: waits until all that it has written is read.
    #[allow(dead_code)] // by `tests/kill`, which shares this file
    pub fn read_to_the_end(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// Waits for the end; its exit code.
    pub async fn exited(&mut self, within: Duration) -> i32 {
        let status = eventually("the worker's end", within, async || self.ended().ok_or("it runs")).await;
        // Its last lines may still be in the pipe.
        eventually("the last books", LONG, async || {
            holds(self.facts("books").iter().any(|books| books["final"] == true), "no line")
        })
        .await;
        status.code().expect("an exit code")
    }

    /// SIGTERM; everything must be well: exit 0, books that balance, each receipt settled once. The books.
    pub async fn stop(&mut self) -> Books {
        self.signal(Signal::TERM);
        let code = self.exited(LONG).await;
        assert_eq!(code, 0, "exit code");
        self.receipts_are_settled_once();
        self.books()
    }

    /// The last books, checked.
    pub fn books(&self) -> Books {
        let books = Books(self.facts("books").pop().expect("books"));
        assert_eq!(books.0["final"], true);
        books.balance();
        books
    }

    /// Every receipt has a line when it is received and one when it is settled, joined by ids (P10).
    pub fn receipts_are_settled_once(&self) {
        let of = |event| {
            let mut ids: Vec<(String, u64)> = self.facts(event).iter().map(receipt).collect();
            ids.sort();
            ids
        };
        let received = of("message_received");
        assert_eq!(received, of("message_settled"), "received and settled receipts differ");
        let mut once = received.clone();
        once.dedup();
        assert_eq!(received, once, "a receipt was received twice");
    }

    /// The processes that it has started and that still live.
    pub fn children(&self) -> Vec<Pid> {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return Vec::new() };
        let of_task = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).ok();
        let lists: Vec<String> = tasks.filter_map(|task| of_task(task.ok()?)).collect();
        let pids = lists.iter().flat_map(|list| list.split_whitespace());
        pids.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }
}

/// What joins the two lines of a receipt.
fn receipt(fact: &Value) -> (String, u64) {
    (fact["message_id"].as_str().unwrap().to_owned(), fact["receive_count"].as_u64().unwrap())
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
        if std::thread::panicking() {
            let lines = self.lines();
            eprintln!("---- the end of the log of worker {}", self.child.id());
            for line in &lines[lines.len().saturating_sub(40)..] {
                match line {
                    Line::Fact(fact) => eprintln!("{fact}"),
                    Line::Odd(text) => eprintln!("{text}"),
                }
            }
        }
    }
}

/// A line of books.
pub struct Books(pub Value);

impl Books {
    pub fn of(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("books without {name}: {}", self.0))
    }

    fn sum(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.of(name)).sum()
    }

    /// The sums of P10, done here once more.
    fn balance(&self) {
        let ends = ["deleted", "dead_lettered", "returned", "lease_lost", "in_flight"];
        assert_eq!(self.of("received"), self.sum(&ends), "{}", self.0);
        assert_eq!(self.of("deleted"), self.sum(&["done", "superseded", "skipped"]), "{}", self.0);
        let changes = ["done", "superseded", "skipped", "retried", "rejected", "abandoned"];
        let changes = changes.map(|end| format!("changes_{end}"));
        assert_eq!(self.of("changes_parsed"), changes.iter().map(|name| self.of(name)).sum::<u64>(), "{}", self.0);
        let documents = ["documents_indexed", "documents_parked", "documents_failed"];
        assert_eq!(self.of("documents_offered"), self.sum(&documents), "{}", self.0);
        assert_eq!((self.of("in_flight"), self.0["balanced"].as_bool()), (0, Some(true)), "{}", self.0);
    }
}
