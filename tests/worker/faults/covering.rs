//! Which rows of the table are met: all of them, or for `make test` a covering.

use super::plan::Position;
use super::table::{CLASSES, Class, OPS, Op, Row};

/// Operations that every file goes through: these meet each class in `make test` too.
fn is_on_the_main_road(op: Op) -> bool {
    matches!(op, Op::Receive | Op::Delete | Op::SendToDlq | Op::GetSource | Op::PutRecord | Op::Bulk)
}

/// All rows, or a covering of them: each operation of the main road with each class, the others with every third, each
/// class with some operation of each kind, and the positions in turn; and what outlasts a lease.
pub fn rows(all: bool) -> Vec<Row> {
    let positions = [Position::First, Position::Nth, Position::While];
    let mut rows = Vec::new();
    for (o, op) in OPS.into_iter().enumerate() {
        let mut turn = o; // each operation begins elsewhere
        for class in CLASSES {
            let of = |position| Row { op, class, position };
            let possible: Vec<Row> = positions.map(of).into_iter().filter(|row| row.fate().is_some()).collect();
            let past = Some(of(Position::PastTheLease)).filter(|row| row.fate().is_some());
            if all {
                rows.extend(possible);
                rows.extend(past);
                continue;
            }
            if !possible.is_empty() {
                turn += 1;
                if is_on_the_main_road(op) || turn.is_multiple_of(3) {
                    rows.push(possible[turn / 3 % possible.len()]);
                }
            }
            rows.extend(past.filter(|_| class == Class::Internal));
        }
    }
    rows
}

/// A table with holes in it would prove less than it says.
#[test]
fn the_covering_meets_every_operation_every_class_and_every_position() {
    let (some, all) = (rows(false), rows(true));
    for row in &all {
        let with = |is: fn(&Row, &Row) -> bool| some.iter().filter(|one| is(one, row)).count();
        assert!(with(|a, b| a.op == b.op) >= 5, "{:?}", row.op);
        assert!(with(|a, b| a.class == b.class) >= 1, "{:?}", row.class);
        assert!(with(|a, b| a.op == b.op && a.position == b.position) >= 1, "{:?} {:?}", row.op, row.position);
    }
    assert!(some.len() * 3 < all.len(), "{} of {}", some.len(), all.len());
}
