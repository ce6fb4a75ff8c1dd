//! XLSX: the cells of every sheet, row by row, under the sheet's name.
//!
//! Cells are streamed: a sheet with one cell in each far corner would be a table of billions.
//! What the library inflates without counting is counted beforehand (T1).

use calamine::{DataRef, ExcelDateTime, Reader, Xlsx, XlsxError};

use super::ooxml::Package;
use super::read::{Stop, Wanted};
use super::sink::Doc;

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    {
        let mut package = Package::open(wanted)?;
        package.core_properties(doc)?;
        package.inflate_all()?;
    }
    wanted.input.rewind()?;
    let mut book = Xlsx::new(&mut *wanted.input).map_err(finding)?;
    let names = book.sheet_names();
    doc.set_count("sheet_count", names.len());
    doc.set_list("sheets", names.iter().map(String::as_str));
    for name in &names {
        if doc.text.is_full() {
            break;
        }
        doc.text.push(name);
        doc.text.end_line();
        match book.worksheet_cells_reader(name) {
            Ok(mut cells) => {
                let mut row = None;
                while let Some(cell) = cells.next_cell().map_err(finding)? {
                    let (own_row, _) = cell.get_position();
                    if row.replace(own_row).is_some_and(|row| row != own_row) {
                        doc.text.end_line();
                    } else {
                        doc.text.tab();
                    }
                    push(cell.get_value(), doc);
                    if doc.text.is_full() {
                        break;
                    }
                }
            }
            // A chart on a sheet of its own has no cells.
            Err(XlsxError::NotAWorksheet(_)) => {}
            Err(error) => return Err(finding(error)),
        }
        doc.text.end_paragraph();
    }
    Ok(())
}

fn finding(error: XlsxError) -> Stop {
    Stop::finding(format!("the workbook is broken: {error}"))
}

fn push(value: &DataRef<'_>, doc: &mut Doc) {
    match value {
        DataRef::String(text) => doc.text.push(&text.replace('\n', " ")),
        DataRef::SharedString(text) => doc.text.push(&text.replace('\n', " ")),
        DataRef::Int(number) => doc.text.push(&number.to_string()),
        DataRef::Float(number) => doc.text.push(&number.to_string()),
        DataRef::Bool(value) => doc.text.push(if *value { "TRUE" } else { "FALSE" }),
        DataRef::DateTime(moment) => doc.text.push(&written(moment)),
        DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => doc.text.push(text),
        DataRef::Error(_) | DataRef::Empty => {}
    }
}

/// As people write dates: the time of day only where there is one.
fn written(moment: &ExcelDateTime) -> String {
    if !moment.is_datetime() {
        return moment.as_f64().to_string();
    }
    let (year, month, day, hour, minute, second, _) = moment.to_ymd_hms_milli();
    let date = format!("{year:04}-{month:02}-{day:02}");
    if (hour, minute, second) == (0, 0, 0) { date } else { format!("{date} {hour:02}:{minute:02}:{second:02}") }
}
