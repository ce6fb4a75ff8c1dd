//! Whether the way to an end is open everywhere: what is safe because nothing ever happens is of no use.

/// A place from which no way leads to an end, if there is one.
pub fn dead_end(places: usize, ways: &[(u32, u32)], is_end: impl Fn(u32) -> bool) -> Option<u32> {
    // Backwards from all ends; `into` has the ways to each place one after the other.
    let mut begins = vec![0_u32; places + 1];
    for (_, to) in ways {
        begins[*to as usize + 1] += 1;
    }
    for place in 0..places {
        begins[place + 1] += begins[place];
    }
    let mut into = vec![0; ways.len()];
    let mut filled = begins.clone();
    for (from, to) in ways {
        let slot = &mut filled[*to as usize];
        into[*slot as usize] = *from;
        *slot += 1;
    }
    let mut open: Vec<bool> = (0..places as u32).map(is_end).collect();
    let mut todo: Vec<u32> = (0..places as u32).filter(|place| open[*place as usize]).collect();
    while let Some(place) = todo.pop() {
        let place = place as usize;
        for from in &into[begins[place] as usize..begins[place + 1] as usize] {
            if !std::mem::replace(&mut open[*from as usize], true) {
                todo.push(*from);
            }
        }
    }
    open.iter().position(|open| !open).map(|place| place as u32)
}

#[test]
fn a_place_that_leads_to_no_end_is_found() {
    let ways = [(0, 1), (1, 0), (1, 2), (0, 3), (3, 3)];
    assert_eq!(dead_end(4, &ways, |place| place == 2), Some(3));
    assert_eq!(dead_end(4, &ways, |place| place >= 2), None);
}
