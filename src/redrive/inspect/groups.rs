//! Counts by what a person asks for: reason, error, key prefix, tenant, age, redrives, time.
//!
//! Pure. Promises that its memory does not grow with the number of letters, and that what is left out of a table is
//! counted as `others`: every table adds up.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::message::detail::printable;

/// Names that one table tells apart while counting.
const NAMES: usize = 2_000;
/// Rows of a table in a report.
pub const ROWS: usize = 25;
/// What has no row of its own.
pub const OTHERS: &str = "(others)";
/// What says nothing of itself.
pub const NONE: &str = "(none)";

/// A table while it is counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    by_name: BTreeMap<String, u64>,
    others: u64,
}

impl Counts {
    /// One more.
    pub fn add(&mut self, name: &str) {
        if let Some(number) = self.by_name.get_mut(name) {
            *number += 1;
        } else if self.by_name.len() < NAMES {
            self.by_name.insert(name.to_owned(), 1);
        } else {
            self.others += 1;
        }
    }

    /// The greatest, in the order of their numbers; the rest as others.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> =
            self.by_name.iter().map(|(name, number)| Row { name: name.clone(), number: *number }).collect();
        rows.sort_by(|one, other| other.number.cmp(&one.number).then_with(|| one.name.cmp(&other.name)));
        let rest = rows.split_off(rows.len().min(ROWS));
        let others = self.others + rest.iter().map(|row| row.number).sum::<u64>();
        if others > 0 {
            rows.push(Row { name: OTHERS.to_owned(), number: others });
        }
        rows
    }
}

/// A line of a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// What it counts.
    pub name: String,
    /// How many.
    pub number: u64,
}

/// What kind of error a sentence tells of: names, numbers and ids taken out, so that equal troubles count as one.
pub fn kind_of(detail: &str) -> String {
    if detail.is_empty() {
        return NONE.to_owned();
    }
    let mut kind = String::new();
    let mut quoted = None;
    let mut word = String::new();
    let flush = |word: &mut String, kind: &mut String| {
        kind.push_str(if is_a_number_or_id(word) { "#" } else { word });
        word.clear();
    };
    for character in detail.chars() {
        match quoted {
            Some(end) if character == end => {
                kind.push('…');
                kind.push(end);
                quoted = None;
            }
            Some(_) => {}
            None if character == '"' => {
                flush(&mut word, &mut kind);
                kind.push(character);
                quoted = Some(character);
            }
            None if character.is_alphanumeric() || matches!(character, '-' | '_' | '.') => word.push(character),
            None => {
                flush(&mut word, &mut kind);
                kind.push(character);
            }
        }
    }
    flush(&mut word, &mut kind);
    printable(&kind, 100)
}

/// Counts, sizes, ids; not `s3`, `sha256` or a status like 403, which are words.
fn is_a_number_or_id(word: &str) -> bool {
    let begins_with_letter = word.starts_with(|first: char| first.is_alphabetic());
    let is_status = word.len() == 3 && word.parse().is_ok_and(|number: u32| (400..600).contains(&number));
    let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
    has_digit && !is_status && !(begins_with_letter && word.chars().count() < 8)
}

/// The first folder of a key, as it is listed.
pub fn prefix_of(key: &str) -> String {
    match key.split_once('/') {
        Some((folder, _)) => format!("{folder}/"),
        None => "(no folder)".to_owned(),
    }
}

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// Bounds of ages, milliseconds, and their names.
const AGES: [(u64, &str); 8] = [
    (HOUR, "under 1 h"),
    (6 * HOUR, "1 to 6 h"),
    (DAY, "6 to 24 h"),
    (2 * DAY, "1 to 2 days"),
    (4 * DAY, "2 to 4 days"),
    (7 * DAY, "4 to 7 days"),
    (14 * DAY, "7 to 14 days"),
    (u64::MAX, "over 14 days"),
];

/// Counts by length of time, in the order of the lengths.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spans([u64; AGES.len()]);

impl Spans {
    /// One more, of this length.
    pub fn add(&mut self, ms: u64) {
        let place = AGES.iter().position(|(bound, _)| ms < *bound).unwrap_or(AGES.len() - 1);
        if let Some(number) = self.0.get_mut(place) {
            *number += 1;
        }
    }

    /// All of them, where there is any.
    pub fn rows(&self) -> Vec<Row> {
        if self.0.iter().all(|number| *number == 0) {
            return Vec::new();
        }
        AGES.iter().zip(self.0).map(|((_, name), number)| Row { name: (*name).to_owned(), number }).collect()
    }
}

/// Bars of a chart, at most.
const BARS: u64 = 60;
/// Widths of a bar.
const WIDTHS: [u64; 8] = [HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY];

/// How many came when: by the hour, for as many hours as there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inflow {
    by_hour: BTreeMap<u64, u64>,
}

/// A time and how many came in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Bar {
    /// Its begin, Unix milliseconds.
    pub from_ms: u64,
    /// How many.
    pub number: u64,
}

impl Inflow {
    /// One more.
    pub fn add(&mut self, at_ms: u64) {
        *self.by_hour.entry(at_ms / HOUR).or_default() += 1;
    }

    /// The first and the last, Unix milliseconds.
    fn ends(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.by_hour.keys().next()?, self.by_hour.keys().next_back()?);
        Some((first * HOUR, last * HOUR))
    }

    /// The width of bars in which all of these can be shown side by side, and where they begin and end.
    pub fn scale<'a>(all: impl IntoIterator<Item = &'a Self>) -> Option<Scale> {
        let ends = all.into_iter().filter_map(Self::ends);
        let (first, last) = ends.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))?;
        let fits = |width: &&u64| (last / **width).saturating_sub(first / **width) < BARS;
        let width_ms = WIDTHS.iter().find(fits).copied().unwrap_or(365 * DAY);
        Some(Scale { width_ms, first: first / width_ms, last: last / width_ms })
    }

    /// A bar for each step, also where nothing came.
    pub fn bars(&self, scale: &Scale) -> Vec<Bar> {
        let mut numbers = BTreeMap::<u64, u64>::new();
        for (hour, number) in &self.by_hour {
            *numbers.entry(hour * HOUR / scale.width_ms).or_default() += number;
        }
        // A clock that was wrong by decades must not make a chart of a million bars.
        let steps = scale.first..=scale.last.min(scale.first + 2 * BARS);
        let bar = |step: u64| Bar { from_ms: step * scale.width_ms, number: numbers.get(&step).copied().unwrap_or(0) };
        steps.map(bar).collect()
    }
}

/// How a chart is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Scale {
    /// Of one bar, milliseconds.
    pub width_ms: u64,
    #[serde(skip)]
    first: u64,
    #[serde(skip)]
    last: u64,
}

impl Scale {
    /// For a person.
    pub fn width(&self) -> String {
        match (self.width_ms / DAY, self.width_ms / HOUR) {
            (0, 1) => "hour".to_owned(),
            (0, hours) => format!("{hours} hours"),
            (1, _) => "day".to_owned(),
            (days, _) => format!("{days} days"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_the_greatest_and_adds_up() {
        let mut counts = Counts::default();
        for n in 0..5_000_u32 {
            counts.add(&format!("name {n}"));
            counts.add("often");
        }
        let rows = counts.rows();
        assert_eq!((rows.len(), rows[0].name.as_str(), rows[0].number), (ROWS + 1, "often", 5_000));
        assert_eq!((rows[ROWS].name.as_str(), rows.iter().map(|row| row.number).sum::<u64>()), (OTHERS, 10_000));
    }

    #[test]
    fn equal_troubles_are_of_one_kind_whatever_they_name() {
        for (detail, kind) in [
            ("access denied: key \"a/b 1.txt\" of 2,345 bytes", "access denied: key \"…\" of #,# bytes"),
            ("child 77 ended with signal 9", "child # ended with signal #"),
            ("request 0b1afe77-4f5c timed out", "request # timed out"),
            ("request c3d13fe58de4 to s3 answered 403", "request # to s3 answered 403"),
            ("an end \"without", "an end \""),
            ("", "(none)"),
        ] {
            assert_eq!(kind_of(detail), kind);
        }
        assert!(kind_of(&"x ".repeat(500)).chars().count() <= 100);
    }

    #[test]
    fn ages_fall_into_their_spans() {
        let mut spans = Spans::default();
        assert!(spans.rows().is_empty());
        for age in [0, HOUR - 1, HOUR, 14 * DAY, u64::MAX] {
            spans.add(age);
        }
        let numbers: Vec<u64> = spans.rows().iter().map(|row| row.number).collect();
        assert_eq!(numbers, [2, 1, 0, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn a_chart_has_a_bar_for_each_step_and_never_too_many() {
        let begin = 1_795_305_600_000;
        for (span, width) in
            [(0, HOUR), (59 * HOUR, HOUR), (60 * HOUR, 3 * HOUR), (50 * DAY, DAY), (4_000 * DAY, 365 * DAY)]
        {
            let (mut one, mut other) = (Inflow::default(), Inflow::default());
            one.add(begin);
            one.add(begin + span);
            other.add(begin + span / 2);
            let scale = Inflow::scale([&one, &other]).unwrap();
            assert_eq!(scale.width_ms, width, "{span}");
            let (bars, others) = (one.bars(&scale), other.bars(&scale));
            assert!(bars.len() == others.len() && bars.len() <= 60, "{span}: {}", bars.len());
            assert_eq!(bars.iter().map(|bar| bar.number).sum::<u64>(), 2);
            assert!(bars[0].from_ms <= begin && bars.windows(2).all(|two| two[1].from_ms - two[0].from_ms == width));
        }
        assert_eq!(Inflow::scale([&Inflow::default()]), None);
    }
}
