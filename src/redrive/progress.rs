//! The drain's one line of progress: a bar, how many of how many, the rate, and how long it will take.
//!
//! Promises a line that fits the terminal it is asked for (what matters least goes first), and a rate of now: of the last
//! half minute, so that the wait for the first letters is soon forgotten. Pure; knows no terminal.

use std::collections::VecDeque;
use std::time::Duration;

use super::report::Tally;

/// The rate is that of this long, or of the last two batches where they took longer.
const WINDOW: Duration = Duration::from_secs(30);

/// How fast it goes.
#[derive(Default)]
pub(super) struct Pace {
    /// When, since the begin, and how many by then.
    seen: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// By now so many are done. Letters per second; 0 as long as nothing can be said.
    pub(super) fn at(&mut self, now: Duration, done: u64) -> f64 {
        if self.seen.is_empty() {
            self.seen.push_back((Duration::ZERO, 0));
        }
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.seen.pop_front();
        }
        let Some((at, before)) = self.seen.front() else { return 0.0 };
        done.saturating_sub(*before) as f64 / now.saturating_sub(*at).as_secs_f64().max(0.001)
    }
}

/// The line, in at most `columns` where that can be. `doing`: what it waits for, empty while letters are moved.
pub(super) fn line(tally: &Tally, about: u64, rate: f64, doing: &str, columns: usize) -> String {
    let done = tally.decided();
    let left = about.saturating_sub(done + tally.unmatched);
    let (long, short) = match doing {
        "" if rate > 0.0 => eta(left as f64 / rate),
        "" => ("…".to_owned(), "…".to_owned()),
        doing => (doing.to_owned(), doing.to_owned()),
    };
    let bar = |width: u64| -> String {
        let full = (done * width).checked_div(about).unwrap_or(0).min(width);
        (0..width).map(|at| if at < full { '#' } else { '.' }).collect()
    };
    let rate = if rate > 0.0 && rate < 9.95 { format!("{rate:.1}/s") } else { format!("{rate:.0}/s") };
    let Tally { resent, archived, left: stay, .. } = tally;
    let lines = [
        format!("[{}] {done} of {about}: {resent} resent, {archived} archived, {stay} left; {rate}, {long}", bar(20)),
        format!("[{}] {done} of {about}: {resent} resent, {archived} archived; {rate}, {long}", bar(10)),
        format!("[{}] {done} of {about}; {rate}, {long}", bar(20)),
        format!("[{}] {done}/{about} {rate} {short}", bar(8)),
    ];
    let [.., narrow] = &lines;
    lines.iter().find(|line| line.chars().count() <= columns).unwrap_or(narrow).clone()
}

/// `3 min 20 s left`, `3m20s`: two units are enough.
fn eta(seconds: f64) -> (String, String) {
    let all = seconds.min(3.6e8).ceil() as u64;
    let (hours, minutes, seconds) = (all / 3_600, all / 60 % 60, all % 60);
    match (hours, minutes) {
        (0, 0) => (format!("{seconds} s left"), format!("{seconds}s")),
        (0, _) => (format!("{minutes} min {seconds} s left"), format!("{minutes}m{seconds}s")),
        (_, _) => (format!("{hours} h {minutes} min left"), format!("{hours}h{minutes}m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(resent: u64, archived: u64) -> Tally {
        Tally { resent, archived, ..Tally::default() }
    }

    #[test]
    fn the_line_says_as_much_as_fits_and_always_the_bar_the_rate_and_the_time_left() {
        let long = "waiting for the first 10 to be worked on";
        for (tally, about, rate, doing, columns, expected) in [
            (tally(15, 2), 37, 8.5, "", 70, "[####......] 17 of 37: 15 resent, 2 archived; 8.5/s, 3 s left"),
            (
                tally(15, 2),
                37,
                8.5,
                "",
                99,
                "[#########...........] 17 of 37: 15 resent, 2 archived, 0 left; 8.5/s, 3 s left",
            ),
            (tally(15, 2), 37, 8.5, "", 39, "[###.....] 17/37 8.5/s 3s"),
            (
                tally(4_000, 79),
                8_158,
                1_000.0,
                "",
                79,
                "[#####.....] 4079 of 8158: 4000 resent, 79 archived; 1000/s, 5 s left",
            ),
            (tally(4_000, 79), 8_158, 12.0, "", 60, "[##########..........] 4079 of 8158; 12/s, 5 min 40 s left"),
            (tally(4_000, 79), 8_158, 12.0, "", 39, "[####....] 4079/8158 12/s 5m40s"),
            (tally(8_158, 0), 8_158, 1_000.0, "", 39, "[########] 8158/8158 1000/s 0s"),
            (tally(10, 0), 8_158, 0.5, "", 39, "[........] 10/8158 0.5/s 4h31m"),
            (tally(10, 0), 8_158, 0.0, long, 79, "[........] 10/8158 0/s waiting for the first 10 to be worked on"),
            (tally(0, 0), 0, 0.0, "", 39, "[....................] 0 of 0; 0/s, …"),
        ] {
            assert_eq!(line(&tally, about, rate, doing, columns), expected, "{columns}");
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_half_minute() {
        let mut pace = Pace::default();
        let s = Duration::from_secs;
        for (at, done, rate) in [
            (s(0), 0, 0.0),
            (s(20), 10, 0.5), // the first ten, and the wait for a worker
            (s(25), 110, 4.4),
            (s(50), 1_110, 1_100.0 / 30.0), // since the 20th second
            (s(51), 1_160, 1_150.0 / 31.0),
            (s(500), 1_161, 1.0 / 449.0), // one batch that took long
        ] {
            assert!((pace.at(at, done) - rate).abs() < 0.05, "at {at:?}");
        }
    }
}
