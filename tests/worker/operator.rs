//! `redrive` as an operator sits before it: the bar on a real terminal (a pty), and what ends a run early, Ctrl-C, SIGTERM
//! or a terminal that is gone: the batch is finished and written down, what is held is visible again at once.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::Launch;
use crate::redrive::{dead, lost};
use crate::relay::{Head, Relay};
use crate::terminal::{Line, Terminal, played};
use crate::waiting::{LONG, eventually, holds};
use crate::world::World;

const LETTERS: usize = 35;

fn is_send(head: &Head) -> bool {
    head.target == "AmazonSQS.SendMessageBatch"
}

fn is_receive(head: &Head) -> bool {
    head.target == "AmazonSQS.ReceiveMessage"
}

/// Its exit code; a signal that ended it is a failure.
async fn code(child: &mut Child) -> i32 {
    let status = eventually("its end", LONG, async || child.try_wait().unwrap().ok_or("it runs")).await;
    status.code().unwrap_or_else(|| panic!("{status}"))
}

fn all(mut from: impl std::io::Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// On its terminal, all three streams.
fn sit_down(launch: &Launch, line: &Line, arguments: &[&str]) -> Child {
    launch.spawn_redrive_leading(arguments, [line.stdio(), line.stdio(), line.stdio()])
}

/// No signal is on its way to it any more: it has been taken.
async fn has_taken_its_signals(child: &Child) {
    eventually("the signal is taken", LONG, async || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let pending = status.lines().filter(|line| line.starts_with("SigPnd") || line.starts_with("ShdPnd"));
        let pending: Vec<String> = pending.map(str::to_owned).collect();
        holds(pending.iter().all(|line| line.trim_end_matches('0').ends_with(['\t', ' '])), pending)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_bar_with_rate_and_time_left_fits_its_terminal_is_taken_away_and_is_nowhere_else() {
    let world = World::silent().await;
    let (_, bodies) = lost(&world, LETTERS).await;
    let drains = LETTERS.to_string();
    // At the last one it ends: no polls that find nothing.
    let drain = ["--batch-size", "10", "--canary-timeout", "0", "--rate", "10000", "--max-messages", &drains];
    // What the terminal is and how wide, another width once the first bar stands there, whether a bar is drawn.
    for (term, columns, then, is_drawn) in [
        ("xterm-256color", 80, None, true),
        ("screen", 40, None, true),
        ("tmux-256color", 110, Some(40), true),
        ("xterm", 40, Some(110), true),
        // It does not say how wide it is.
        ("vt100", 0, None, true),
        ("dumb", 80, None, false),
        ("", 80, None, false),
    ] {
        dead(&world, &bodies).await;
        let relay = world.aws_relay();
        let first = Mutex::new(None);
        let is_later =
            move |head: &Head| is_send(head) && *first.lock().unwrap().get_or_insert(head.number) != head.number;
        relay.hold(is_later);
        let operator = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("TERM", term).set("NO_COLOR", 1);
        let (terminal, line) = Terminal::open(columns);
        // Only stderr is a terminal: the report goes through a pipe.
        let mut child = operator.spawn_redrive_leading(&drain, [line.stdio(), Stdio::piped(), line.stdio()]);
        drop(line);
        eventually("the first batch is shown, and the second is on its way", LONG, async || {
            holds(relay.held() > 0, relay.held())
        })
        .await;
        if let Some(columns) = then {
            terminal.resize(columns);
        }
        relay.release();
        let report = all(child.stdout.take().unwrap());
        assert_eq!(code(&mut child).await, 0, "{term}: {}", terminal.drawn());
        assert!(report.starts_with(&drains) && !report.contains(['\r', '\x1b', '#']), "{term}: {report:?}");

        let width = |bar: usize| match if bar == 0 { columns } else { then.unwrap_or(columns) } {
            0 => 80,
            told => usize::from(told),
        };
        let drawn = if is_drawn {
            eventually("the bar is taken away", LONG, async || {
                let drawn = terminal.drawn();
                if drawn.ends_with("\r\x1b[2K") { Ok(drawn) } else { Err(drawn) }
            })
            .await
        } else {
            terminal.drawn()
        };
        let screen = played(&drawn, width(0).max(width(1)));
        assert_eq!(
            (screen.wraps, &screen.odd[..], &screen.rows[..]),
            (0, &[][..], &[String::new()][..]),
            "{term}: {drawn:?}"
        );
        if !is_drawn {
            assert_eq!(drawn, "", "{term}");
            continue;
        }
        let last = screen.overwritten.last().unwrap();
        let all_done = [format!("{LETTERS} of {LETTERS}"), format!("{LETTERS}/{LETTERS}")];
        assert!(all_done.iter().any(|done| last.contains(done)), "{term}: {screen:?}");
        for (number, bar) in screen.overwritten.iter().enumerate() {
            let fits = bar.chars().count() + "^C".len() < width(number);
            assert!(fits && bar.starts_with("[#") && bar.contains("/s"), "{term}: {bar:?} in {}", width(number));
            assert!(bar.ends_with('s') || bar.ends_with("left"), "{term}: {bar:?}");
        }
        assert!(screen.overwritten.len() >= 4, "each batch is shown: {screen:?}");
    }
    // No terminal at all: log lines and the report.
    dead(&world, &bodies).await;
    let piped = world.launch().set("TERM", "xterm").redrive(&drain);
    assert!(piped.code == 0 && piped.stdout.starts_with(&drains), "{piped:?}");
    assert!(!piped.stderr.contains('\r') && !piped.stdout.contains('\r') && !piped.stderr.contains("[#"), "{piped:?}");
    assert!(piped.stderr.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", piped.stderr);
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Cut {
    CtrlC,
    CtrlCTwice,
    Terminate,
    TerminateTwice,
    HangUp,
    HangUpAndTerminate,
    /// SIGTERM, and nobody reads what it says.
    TerminateUnheard,
}

/// What was done to letters, by the audit: message id of the DLQ → action.
async fn audited(world: &World) -> Vec<(String, String)> {
    let mut actions = Vec::new();
    for key in world.results_under("redrive/").await {
        let part = world.s3.get_object().bucket(&world.results).key(&key).send().await.unwrap();
        let text = String::from_utf8(part.body.collect().await.unwrap().to_vec()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "a part is whole: {text:?}");
        actions.extend(text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["message_id"].as_str().unwrap().to_owned(), line["action"].as_str().unwrap().to_owned())
        }));
    }
    actions
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn whatever_ends_a_run_the_batch_is_finished_and_written_down_and_the_rest_is_visible_at_once() {
    let cuts = [
        Cut::CtrlC,
        Cut::CtrlCTwice,
        Cut::Terminate,
        Cut::TerminateTwice,
        Cut::HangUp,
        Cut::HangUpAndTerminate,
        Cut::TerminateUnheard,
    ];
    futures_util::future::join_all(cuts.map(cut_short)).await;
}

async fn cut_short(cut: Cut) {
    let world = World::silent().await;
    let relay: Relay = world.aws_relay();
    let (_, bodies) = lost(&world, LETTERS).await;
    let ids: BTreeSet<String> = dead(&world, &bodies).await.into_iter().collect();
    let operator = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("TERM", "xterm");
    relay.hold(is_send);
    let (mut terminal, line) = Terminal::open(200);
    let drain = ["--batch-size", "10", "--canary-timeout", "0", "--rate", "10000", "--visibility-timeout", "600"];
    let on_terminal = !matches!(cut, Cut::Terminate | Cut::TerminateTwice | Cut::TerminateUnheard);
    let mut child = match on_terminal {
        true => sit_down(&operator, &line, &drain),
        false => operator.spawn_redrive(&drain),
    };
    drop(line);
    eventually("it is in the middle of a batch", LONG, async || holds(relay.held() > 0, relay.held())).await;
    let pid = Pid::from_child(&child);
    match cut {
        Cut::CtrlC | Cut::CtrlCTwice => terminal.types("\x03"),
        Cut::Terminate | Cut::TerminateTwice => kill_process(pid, Signal::TERM).unwrap(),
        Cut::HangUp | Cut::HangUpAndTerminate => terminal.hang_up(),
        Cut::TerminateUnheard => {
            drop((child.stdout.take(), child.stderr.take()));
            kill_process(pid, Signal::TERM).unwrap();
        }
    }
    if on_terminal && terminal_is_there(cut) {
        eventually("the terminal has seen it", LONG, async || {
            let drawn = terminal.drawn();
            holds(drawn.contains("^C"), drawn)
        })
        .await;
    }
    has_taken_its_signals(&child).await;
    match cut {
        Cut::CtrlCTwice => terminal.types("\x03\x03"),
        Cut::TerminateTwice | Cut::HangUpAndTerminate => kill_process(pid, Signal::TERM).unwrap(),
        Cut::CtrlC | Cut::Terminate | Cut::HangUp | Cut::TerminateUnheard => {}
    }
    has_taken_its_signals(&child).await;
    assert_eq!(child.try_wait().unwrap(), None, "{cut:?}: its batch is not at its end");
    relay.release();

    let code = code(&mut child).await;
    let stdout = child.stdout.take().map(all);
    assert_eq!(code, 130, "{cut:?}: {stdout:?} {}", terminal.drawn());
    // At once: its leases would have lasted ten minutes.
    assert_eq!(world.depth(&world.dlq).await, (25, 0, 0), "{cut:?}: the DLQ");
    assert_eq!(world.depth(&world.queue).await, (10, 0, 0), "{cut:?}: the main queue");
    let first = audited(&world).await;
    let sent: BTreeSet<String> = first.iter().map(|(id, _)| id.clone()).collect();
    assert!(first.iter().all(|(_, action)| action == "resent") && sent.len() == 10, "{cut:?}: {first:?}");
    assert!(sent.is_subset(&ids), "{cut:?}");

    let said = match stdout {
        Some(stdout) => Some(stdout),
        None if terminal_is_there(cut) => {
            let on_screen = eventually("the report", LONG, async || {
                let drawn = terminal.drawn();
                if drawn.contains("to go on") && drawn.ends_with('\n') { Ok(drawn) } else { Err(drawn) }
            })
            .await;
            Some(played(&on_screen, 200).rows.join("\n"))
        }
        None => None,
    };
    let again = drain.join(" ");
    if let Some(said) = &said {
        assert!(said.contains("10 letters in 1 batches") && said.contains("10  sent back"), "{cut:?}: {said}");
        let on = said.lines().find_map(|line| line.strip_prefix("interrupted after a whole batch; to go on: redrive "));
        assert_eq!(on, Some(again.as_str()), "{cut:?}: {said}");
    }
    // The command that goes on does the rest, and none of it twice.
    let on =
        tokio::task::spawn_blocking(move || operator.redrive(&again.split(' ').collect::<Vec<_>>())).await.unwrap();
    assert!(on.code == 0 && on.stdout.starts_with("25 letters"), "{cut:?}: {on:?}");
    world.dlq_is_empty().await;
    assert_eq!(world.depth(&world.queue).await, (35, 0, 0), "{cut:?}: each once");
    let both = audited(&world).await;
    assert_eq!((both.len(), both.into_iter().map(|(id, _)| id).collect::<BTreeSet<_>>()), (LETTERS, ids), "{cut:?}");
}

fn terminal_is_there(cut: Cut) -> bool {
    matches!(cut, Cut::CtrlC | Cut::CtrlCTwice)
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_sample_is_returned_at_once_when_the_terminal_goes_away_while_it_is_held() {
    let world = World::silent().await;
    let relay = world.aws_relay();
    dead(&world, &vec!["{".to_owned(); 12]).await;
    let operator = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("TERM", "xterm");
    // The second poll: some letters are in hand.
    relay.hold(|head| is_receive(head) && head.number > 0);
    let (mut terminal, line) = Terminal::open(80);
    let mut child = sit_down(&operator, &line, &["inspect", "--sample", "12"]);
    drop(line);
    eventually("it receives", LONG, async || holds(relay.held() > 0, relay.held())).await;
    terminal.hang_up();
    has_taken_its_signals(&child).await;
    relay.release();
    assert_eq!(code(&mut child).await, 130, "interrupted, not a panic (101)");
    assert_eq!(world.depth(&world.dlq).await, (12, 0, 0));
}
