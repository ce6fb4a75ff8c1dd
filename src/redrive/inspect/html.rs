//! The report as one page that opens anywhere: no script, no outside asset, light and dark, readable on a phone.
//!
//! Promises that every text from outside is escaped, and that the page may load and run nothing even if one were not (its
//! own content security policy). Charts are inline SVG without words; words are HTML beside them, and keep their size.

use std::fmt::Write as _;

use super::groups::Row;
use super::report::{Place, Report};
use crate::clock::rfc3339;
use crate::message::detail::printable;

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5c6670;--line:#d5dae0;--a:#1f6feb;--b:#b45309;--c:#7c3aed}
@media (prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e4e8ec;--dim:#98a2ad;--line:#2c343d;--a:#58a6ff;--b:#f0a04b;--c:#b794f6}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:60rem;overflow-wrap:anywhere;background:var(--bg);color:var(--fg);font:16px/1.45 system-ui,sans-serif}
h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .3rem;border-top:1px solid var(--line);padding-top:1rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p{margin:.3rem 0}.dim{color:var(--dim)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.6rem;margin:.8rem 0}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.5rem .8rem}.card b{display:block;font-size:1.5rem}
.rows{display:grid;grid-template-columns:minmax(8rem,2fr) 3fr auto;gap:.25rem .7rem;align-items:center}
.rows .name{white-space:pre-wrap}.rows .n{text-align:right;font-variant-numeric:tabular-nums}
.rows svg{width:100%;height:.9rem;display:block}
.chart{width:100%;height:9rem;display:block;border-bottom:1px solid var(--line)}
.axis{display:flex;justify-content:space-between;font-size:.85rem;color:var(--dim);gap:1rem}
.key{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;margin:0 .3rem 0 .8rem;vertical-align:-.05rem}.nowrap{white-space:nowrap}
.dlq{fill:var(--a);background:var(--a)}.archive{fill:var(--b);background:var(--b)}.errored{fill:var(--c);background:var(--c)}
/* A phone: name and number on one line, the bar below them. */
@media (max-width:32rem){.rows{grid-template-columns:1fr auto;grid-auto-flow:dense;row-gap:.1rem}
.rows .name{grid-column:1;margin-top:.4rem}.rows .n{grid-column:2;align-self:end}.rows svg{grid-column:1/-1;height:.6rem}}
";

/// The page.
pub fn page(report: &Report) -> String {
    let mut page = String::new();
    let title = format!("redrive inspect: {}", text(&report.results_bucket));
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    let _ = writeln!(page, "<p class=\"dim\">{}</p>", text(&report.heading()));
    page += "<div class=\"cards\">";
    for place in report.places() {
        // Of a queue that was not sampled only its own count is known.
        let number = if place.read == 0 { place.there } else { place.matching };
        card(&mut page, place.title, number, &place.said());
    }
    page += "</div>\n";
    for line in report.queue_lines() {
        let _ = writeln!(page, "<p>{}</p>", text(&line));
    }
    inflow(&mut page, report);
    for place in report.places().into_iter().filter(|place| place.matching > 0) {
        section(&mut page, place);
    }
    page += "</body></html>\n";
    page
}

fn card(page: &mut String, title: &str, number: u64, said: &str) {
    let _ = write!(
        page,
        "<div class=\"card\">{}<b>{number}</b><span class=\"dim\">{}</span></div>",
        text(title),
        text(said)
    );
}

/// Bars over time, one colour for each place, one on the other.
fn inflow(page: &mut String, report: &Report) {
    let Some(scale) = &report.inflow_scale else { return };
    let places: Vec<&Place> = report.places().into_iter().filter(|place| !place.inflow.is_empty()).collect();
    let steps = places.iter().map(|place| place.inflow.len()).max().unwrap_or(0);
    let at = |place: &Place, step: usize| place.inflow.get(step).map_or(0, |bar| bar.number);
    let total = |step: usize| places.iter().map(|place| at(place, step)).sum::<u64>();
    let most = (0..steps).map(total).max().unwrap_or(0).max(1);
    let _ = write!(page, "<h2>Inflow</h2><p class=\"dim\">by {}, at most {most}", scale.width());
    for place in &places {
        let _ = write!(
            page,
            " <span class=\"nowrap\"><span class=\"key {}\"></span>{}</span>",
            place.name,
            text(place.title)
        );
    }
    let _ = write!(
        page,
        "</p>\n<svg class=\"chart\" role=\"img\" aria-label=\"inflow over time\" viewBox=\"0 0 {} 100\" \
         preserveAspectRatio=\"none\">",
        steps * 10
    );
    for step in 0..steps {
        let mut below = 0.0;
        for place in &places {
            let number = at(place, step);
            if number == 0 {
                continue;
            }
            let height = number as f64 * 100.0 / most as f64;
            let (x, y) = (step * 10 + 1, 100.0 - below - height);
            let from = place.inflow.get(step).map_or_else(String::new, |bar| rfc3339(bar.from_ms));
            let _ = write!(
                page,
                "<rect class=\"{}\" x=\"{x}\" y=\"{y:.2}\" width=\"8\" height=\"{height:.2}\">\
                 <title>{from}: {number} ({})</title></rect>",
                place.name,
                text(place.title)
            );
            below += height;
        }
    }
    let ends = places.first().and_then(|place| Some((place.inflow.first()?.from_ms, place.inflow.last()?.from_ms)));
    let (first, last) = ends.unwrap_or_default();
    let _ = writeln!(
        page,
        "</svg>\n<div class=\"axis\"><span>{}</span><span>{}</span></div>",
        minute(first),
        minute(last + scale.width_ms)
    );
}

/// `2026-11-22 08:30`, UTC.
fn minute(ms: u64) -> String {
    rfc3339(ms).get(..16).unwrap_or_default().replace('T', " ")
}

fn section(page: &mut String, place: &Place) {
    let _ = writeln!(page, "<h2>{}</h2>\n<p class=\"dim\">{}</p>", text(place.title), text(&place.said()));
    for (title, rows) in place.tables() {
        if rows.is_empty() {
            continue;
        }
        let most = rows.iter().map(|row| row.number).max().unwrap_or(0).max(1);
        let _ = writeln!(page, "<h3>{}</h3>\n<div class=\"rows\">", text(title));
        for Row { name, number } in rows {
            let width = *number as f64 * 100.0 / most as f64;
            let _ = writeln!(
                page,
                "<span class=\"name\">{}</span><svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
                 <rect class=\"{}\" width=\"{width:.2}\" height=\"10\"/></svg><span class=\"n\">{number}</span>",
                text(name),
                place.name
            );
        }
        page.push_str("</div>\n");
    }
}

/// One harmless line, with what HTML would take for its own escaped.
pub fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for character in printable(raw, 400).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
