//! How the events of a history say which of two is the newer.

use serde_json::json;

use crate::body_shapes::record;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Telling {
    /// By sequencers that grow, short ones and long ones among each other.
    AnyLength,
    /// By one sequencer for all, as LocalStack does: not at all.
    OneForAll,
    /// Without one, or in minimal bodies.
    Without,
    /// Now with one, now without.
    NowAndThen,
}

pub const TELLINGS: [Telling; 4] = [Telling::AnyLength, Telling::OneForAll, Telling::Without, Telling::NowAndThen];

impl Telling {
    /// The body that tells of this change of a key; `turn` grows from one change to the next.
    pub fn body(self, bucket: &str, key: &str, removed: bool, turn: u64, rng: &mut fastrand::Rng) -> String {
        let sequencer = match self {
            Telling::AnyLength => Some(sequencer(turn, rng)),
            Telling::OneForAll => Some("0055AED6DCD90281E5".to_owned()),
            Telling::Without => None,
            Telling::NowAndThen => rng.bool().then(|| sequencer(turn, rng)),
        };
        if sequencer.is_none() && rng.bool() {
            return json!({ "bucket": bucket, "key": key }).to_string();
        }
        let encoded = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        let name = if removed { "ObjectRemoved:Delete" } else { "ObjectCreated:Put" };
        let mut record = record(name, bucket, &encoded);
        if let Some(sequencer) = sequencer {
            record["s3"]["object"]["sequencer"] = json!(sequencer);
        }
        json!({ "Records": [record] }).to_string()
    }
}

/// Right-padded with zeros they grow with the turn, whatever the length.
fn sequencer(turn: u64, rng: &mut fastrand::Rng) -> String {
    let common = format!("0055AED6{turn:06X}");
    match rng.u8(0..4) {
        0 => common.trim_end_matches('0').to_owned(),
        1 => format!("{common}{:02X}", rng.u8(..)),
        2 => format!("{common}{:016X}", rng.u64(..)),
        _ => common,
    }
}

#[test]
fn sequencers_of_any_length_grow_with_the_turn() {
    use quittance::message::Sequencer;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut lengths = std::collections::BTreeSet::new();
    for turn in 1..2_000 {
        let [one, next] = [turn, turn + 1].map(|turn| Sequencer::parse(&sequencer(turn, &mut rng)).unwrap());
        assert!(one.cmp_same_key(&next).is_lt(), "{one:?} {next:?}");
        lengths.insert(one.as_str().len());
    }
    assert!(lengths.len() > 3, "{lengths:?}");
}
