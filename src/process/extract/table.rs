//! CSV and TSV: cells as text, rows and columns counted.
//!
//! Read as RFC 4180 with the delimiter that the first line uses; rows of unequal length are
//! normal. A quote that never closes is a finding, and what was read stays.

use super::read::{Stop, Wanted};
use super::sink::{Doc, unify_breaks};
use super::text;

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc, tabs: bool) -> Result<(), Stop> {
    let (text, whole) = text::of_markup(wanted, doc)?;
    let text = unify_breaks(&text);
    let delimiter = if tabs { '\t' } else { delimiter(&text) };
    let mut table = Table { doc, delimiter, rows: 0, columns: 0 };
    let closed = table.read(&text);
    let (rows, columns) = (table.rows, table.columns);
    doc.set_count("rows", rows);
    doc.set_count("columns", columns);
    if !whole {
        doc.text.cut();
    }
    if closed || !whole { Ok(()) } else { Err(Stop::finding(format!("a quoted cell in row {rows} is never closed"))) }
}

/// The likeliest of the first line's; a comma where there is none.
fn delimiter(text: &str) -> char {
    let mut quoted = false;
    let mut counts = [(',', 0), ('\t', 0), (';', 0)];
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '\n' if !quoted => break,
            c if !quoted => counts.iter_mut().filter(|(own, _)| *own == c).for_each(|(_, count)| *count += 1),
            _ => {}
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
    counts.iter().find(|(_, count)| *count == most).map_or(',', |(own, _)| *own)
}

struct Table<'a> {
    doc: &'a mut Doc,
    delimiter: char,
    /// Rows that hold anything, the heading included.
    rows: usize,
    columns: usize,
}

impl Table<'_> {
    /// Counts on when the text is full: the numbers are about the file. Says whether the last
    /// quote was closed.
    fn read(&mut self, text: &str) -> bool {
        let (mut quoted, mut cells, mut empty) = (false, 1, true);
        let mut start = 0;
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let ends_cell = match c {
                '"' if quoted => {
                    // A doubled quote is a quote; a single one ends the quoting.
                    let doubled = chars.peek().is_some_and(|(_, next)| *next == '"');
                    self.doc.text.push(&text[start..at + usize::from(doubled)]);
                    if doubled {
                        chars.next();
                    }
                    quoted = doubled;
                    start = at + 1 + usize::from(doubled);
                    empty = false;
                    continue;
                }
                '"' if text[start..at].trim().is_empty() => {
                    (quoted, start) = (true, at + 1);
                    continue;
                }
                '\n' if quoted => {
                    // One row is one line.
                    self.doc.text.push(&text[start..at]);
                    self.doc.text.space();
                    start = at + 1;
                    continue;
                }
                '\n' => true,
                c => c == self.delimiter && !quoted,
            };
            if !ends_cell {
                empty &= c.is_whitespace();
                continue;
            }
            self.doc.text.push(&text[start..at]);
            start = at + c.len_utf8();
            if c == '\n' {
                self.end_row(cells, empty);
                (cells, empty) = (1, true);
            } else {
                self.doc.text.tab();
                cells += 1;
            }
        }
        self.doc.text.push(&text[start..]);
        self.end_row(cells, empty && cells == 1);
        !quoted
    }

    fn end_row(&mut self, cells: usize, empty: bool) {
        self.doc.text.end_line();
        if !empty || cells > 1 {
            self.rows += 1;
            self.columns = self.columns.max(cells);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_rows_and_columns_are_told_apart() {
        let cases = [
            ("a,b\n1,2\n", "a\tb\n1\t2", 2, 2, true),
            ("名前;値\n\"x;y\";\"he said \"\"hi\"\"\"", "名前\t値\nx;y\the said \"hi\"", 2, 2, true),
            ("a,\"two\nlines\",c\n\n\nd", "a\ttwo lines\tc\nd", 2, 3, true),
            ("a,\"open\nb,c", "a\topen b,c", 1, 2, false),
            ("a,,c", "a\tc", 1, 3, true),
            ("", "", 0, 0, true),
        ];
        for (text, expected, rows, columns, closed) in cases {
            let mut doc = Doc::new(1000);
            let mut table = Table { doc: &mut doc, delimiter: delimiter(text), rows: 0, columns: 0 };
            assert_eq!((table.read(text), table.rows, table.columns), (closed, rows, columns), "{text}");
            assert_eq!(doc.text.finish().0, expected);
        }
    }
}
