//! The fault catalogue's coverage, `tests/faults.md`: every row has a state, every test named there exists in the file
//! named there, and every test that is named after a row is in the row. Counts what is pending.

#![expect(clippy::unwrap_used, reason = "clippy knows test functions, not the helpers beside them")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("faults.md");

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Shown,
    Pending,
    Issue,
    Manual,
    Decided,
}

struct Row {
    id: &'static str,
    state: State,
    /// `file::name`.
    tests: Vec<(&'static str, &'static str)>,
    text: &'static str,
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let rows = cells.filter(|cells| cells.len() == 3 && cells[0] != "row");
    rows.map(|cells| {
        let state = match cells[1] {
            "shown" => State::Shown,
            "pending" => State::Pending,
            "manual" => State::Manual,
            "decided" => State::Decided,
            other => {
                let issue = other.strip_prefix("issue ").and_then(|number| number.parse::<u8>().ok());
                assert!(issue.is_some_and(|issue| issue > 4), "row {}: no such state: {other}", cells[0]);
                State::Issue
            }
        };
        let quoted = cells[2].split('`').skip(1).step_by(2);
        let tests = quoted.filter_map(|text| text.split_once("::")).collect();
        Row { id: cells[0], state, tests, text: cells[2] }
    })
    .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_row_of_the_catalogue_has_a_state_and_every_test_named_there_exists() {
    let rows = rows();
    let ids: Vec<&str> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "a row stands there twice: {ids:?}");
    // As many as the catalogue has; none may go missing quietly.
    for (section, last) in [
        ("A0.", 6),
        ("A1.", 9),
        ("A2.", 5),
        ("A3.", 6),
        ("A4.", 6),
        ("P", 22),
        ("Q", 26),
        ("B", 18),
        ("O", 17),
        ("H", 10),
        ("R", 17),
    ] {
        for number in 1..=last {
            assert!(ids.contains(&format!("{section}{number}").as_str()), "no row {section}{number}");
        }
    }
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for Row { id, state, tests, text } in &rows {
        match state {
            State::Shown => assert!(!tests.is_empty(), "row {id} is shown by nothing"),
            State::Pending | State::Manual | State::Decided => assert!(!text.is_empty(), "row {id} without a reason"),
            State::Issue => {}
        }
        for (file, name) in tests {
            let source = sources.entry(file).or_insert_with(|| {
                std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("row {id}: {file}: {error}"))
            });
            let there = source.contains(&format!("fn {name}(")) || source.contains(&format!("fn {name}<"));
            assert!(there, "row {id}: there is no test {name} in {file}");
        }
    }
    let count = |state| rows.iter().filter(|row| row.state == state).count();
    let pending: Vec<&str> = rows.iter().filter(|row| row.state == State::Pending).map(|row| row.id).collect();
    println!(
        "{} rows: {} shown, {} of later issues, {} manual, {} decided otherwise, {} pending ({})",
        rows.len(),
        count(State::Shown),
        count(State::Issue),
        count(State::Manual),
        count(State::Decided),
        pending.len(),
        pending.join(", ")
    );
}

/// The row that a test is named after: `a1_3_…` is A1.3, `q13_…` is Q13. `p7_…` is a process row where workers are
/// killed or stand behind the proxy, and a promise elsewhere.
fn row_of(file: &str, name: &str) -> Option<String> {
    let (first, rest) = name.split_once('_')?;
    let process = ["tests/kill/", "tests/worker/faults/"].iter().any(|folder| file.starts_with(folder));
    let sections = if process { "apqbohr" } else { "aqbohr" };
    let section = first.chars().next().filter(|section| sections.contains(*section))?;
    let digits = first.get(1..).filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))?;
    Some(match section {
        'a' => {
            let number = rest.split('_').next().filter(|number| number.bytes().all(|b| b.is_ascii_digit()))?;
            format!("A{digits}.{number}")
        }
        other => format!("{}{digits}", other.to_ascii_uppercase()),
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_is_named_after_a_row_is_in_that_row() {
    let (rows, mut files) = (rows(), Vec::new());
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    let mut seen = 0;
    for path in files {
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let source = std::fs::read_to_string(&path).unwrap();
        let names = source.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
        for name in names.filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')) {
            let Some(id) = row_of(&file, name) else { continue };
            let row = rows.iter().find(|row| row.id == id);
            let named = row.is_some_and(|row| row.tests.contains(&(file.as_str(), name)));
            assert!(named, "{file}::{name} is not in row {id} of tests/faults.md");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} found");
}
