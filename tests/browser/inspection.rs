//! The page of `redrive inspect --html` in the browser, held against what `--json` says of the same letters.

use std::path::Path;

use quittance::message::detail::printable;
use serde_json::{Value, json};

use super::Browser;

/// The page as a reader sees it: cards, bars over time, and per place its tables with the share of each bar.
const SEEN: &str = "(() => {
  const cards = [...document.querySelectorAll('.card')].map(card =>
    [card.firstChild.textContent, Number(card.querySelector('b').innerText)]);
  const bars = [...document.querySelectorAll('svg.chart rect')].map(bar => {
    const { height, width } = bar.getBoundingClientRect();
    const all = bar.ownerSVGElement.clientHeight;
    return { place: bar.getAttribute('class'), said: bar.querySelector('title').textContent, height: height / all, width };
  });
  const places = {};
  for (const heading of document.querySelectorAll('h2')) {
    if (heading.innerText === 'Inflow') continue;
    const tables = places[heading.innerText] = {};
    let title = '';
    for (let e = heading.nextElementSibling; e && e.tagName !== 'H2'; e = e.nextElementSibling) {
      if (e.tagName === 'H3') title = e.innerText;
      if (!e.classList.contains('rows')) continue;
      const names = [...e.querySelectorAll('.name')];
      tables[title] = names.map(name => {
        const plot = name.nextElementSibling, mark = plot.querySelector('rect');
        const share = mark.getBoundingClientRect().width / plot.getBoundingClientRect().width;
        return [name.innerText, Number(plot.nextElementSibling.innerText), Math.round(share * 100)];
      });
    }
  }
  return { cards, bars, places };
})()";

const PLACES: [(&str, &str); 3] =
    [("dlq", "Dead-letter queue"), ("archive", "Archive (given up on)"), ("errored", "Errored (not in the index)")];
const TABLES: [(&str, &str); 7] = [
    ("by_reason", "by reason"),
    ("by_error", "by error"),
    ("by_tenant", "by tenant"),
    ("by_prefix", "by folder"),
    ("by_age", "by age"),
    ("by_time_to_expiry", "by time to expiry"),
    ("by_redrives", "by number of redrives"),
];

/// The tables of one place as the page has to show them. Each row's bar is its share of the longest, in per cent.
fn tables(place: &Value) -> Value {
    let shown = TABLES.iter().filter_map(|(name, title)| {
        let rows = place[name].as_array().unwrap();
        let most = rows.iter().map(|row| row["number"].as_u64().unwrap()).max()?;
        let row = |row: &Value| {
            let number = row["number"].as_u64().unwrap();
            let share = (number as f64 * 100.0 / most.max(1) as f64).round() as u64;
            json!([printable(row["name"].as_str().unwrap(), 400), number, share])
        };
        Some(((*title).to_owned(), rows.iter().map(row).collect()))
    });
    Value::Object(shown.collect())
}

/// Opens the page: it asks for nothing, nothing in it fails or runs, and it shows what `told` (of `--json`) says: the
/// numbers, a row with its bar for each row, a bar for each step of the inflow.
pub fn shows(browser: &mut Browser, page: &Path, told: &Value) {
    browser.resize(1100, 900);
    browser.open_file(page);
    assert_eq!(browser.troubles(), [""; 0]);
    let seen = browser.ask(SEEN);
    let cards = PLACES.map(|(name, title)| {
        let place = &told[name];
        json!([title, if place["read"] == 0 { &place["there"] } else { &place["matching"] }])
    });
    assert_eq!(seen["cards"], json!(cards));
    for (name, title) in PLACES {
        let expected = if told[name]["matching"] == 0 { Value::Null } else { tables(&told[name]) };
        assert_eq!(
            seen["places"][title].as_object().map(|tables| tables.len()),
            expected.as_object().map(|tables| tables.len())
        );
        for (table, rows) in expected.as_object().into_iter().flatten() {
            assert_eq!(seen["places"][title][table], *rows, "{title}, {table}");
        }
    }

    let steps = |name: &str| told[name]["inflow"].as_array().unwrap().clone();
    let number = |step: &Value| step["number"].as_u64().unwrap();
    let count = PLACES.iter().map(|(name, _)| steps(name).len()).max().unwrap();
    let totals =
        (0..count).map(|at| PLACES.iter().filter_map(|(name, _)| steps(name).get(at).map(number)).sum::<u64>());
    let most = totals.max().unwrap_or_default();
    let mut expected = Vec::new();
    for at in 0..count {
        for (name, title) in PLACES {
            let Some(step) = steps(name).get(at).cloned().filter(|step| number(step) > 0) else { continue };
            let from = quittance::clock::rfc3339(step["from_ms"].as_u64().unwrap());
            expected.push((name, format!("{from}: {} ({title})", number(&step)), number(&step) as f64 / most as f64));
        }
    }
    let bars = seen["bars"].as_array().unwrap();
    assert_eq!(bars.len(), expected.len(), "bars over time: {bars:#?}, of {expected:#?}");
    for (bar, (place, said, share)) in bars.iter().zip(expected) {
        assert_eq!((bar["place"].as_str(), bar["said"].as_str()), (Some(place), Some(said.as_str())));
        let (height, width) = (bar["height"].as_f64().unwrap(), bar["width"].as_f64().unwrap());
        assert!((height - share).abs() < 0.02 && width >= 1.0, "{bar}, not {share}");
    }
}
