//! The mapping: which fields a document has and how each is found (design §8, "Fields of a document").
//!
//! Promises that an index in use can be compared with it, and that what can be added is told from what cannot be
//! changed. Pure; knows no request.

use serde_json::{Map, Value, json};

use super::analyzer::Analyzer;

/// Settings and mapping of a new index.
pub(super) fn index_body(analyzer: Analyzer) -> Value {
    json!({ "settings": settings(analyzer), "mappings": { "dynamic": false, "properties": fields(analyzer) } })
}

/// What the read alias shows: all that is not soft-deleted.
pub(super) fn not_deleted() -> Value {
    json!({ "bool": { "must_not": [{ "term": { "deleted": true } }] } })
}

fn settings(analyzer: Analyzer) -> Value {
    let mut settings = json!({
        "number_of_shards": 1,
        // One copy as soon as there is a second node, and green on a single one.
        "auto_expand_replicas": "0-1",
        "analysis": {
            "char_filter": {
                // The standard tokenizer does not part words at `_`, nor at the `.` before an extension.
                "name_parts": { "type": "pattern_replace", "pattern": "[^\\p{L}\\p{M}\\p{N}]+", "replacement": " " },
                "composed_kana": { "type": "mapping", "mappings": composed_kana() },
            },
            "analyzer": {
                "file_name": {
                    "type": "custom",
                    "char_filter": ["composed_kana", "name_parts"],
                    "tokenizer": "standard",
                    "filter": ["cjk_width", "lowercase", "cjk_bigram"],
                },
            },
        },
    });
    let analysis = &mut settings["analysis"];
    match analyzer {
        // The filters are those of the plugin's own analyzer. It alone would cut `n001x` into three, and find whatever
        // has one of them: the dictionary knows no codes, and where letters and digits meet a word ends for it.
        Analyzer::Kuromoji => {
            analysis["char_filter"]["whole_codes"] = json!({ "type": "mapping", "mappings": digits_as_letters() });
            analysis["analyzer"][analyzer.in_mapping()] = json!({
                "type": "custom",
                "char_filter": ["composed_kana", "whole_codes"],
                "tokenizer": "kuromoji_tokenizer",
                "filter": [
                    "kuromoji_baseform", "kuromoji_part_of_speech", "cjk_width", "ja_stop", "kuromoji_stemmer", "lowercase",
                ],
            });
        }
        Analyzer::Icu | Analyzer::Cjk | Analyzer::Standard => {}
    }
    settings
}

/// Letters that the dictionary takes for such (Latin Extended-B), that no text has, and that have no other case.
/// Queries take the same way, so that nobody ever sees them.
fn digits_as_letters() -> Vec<String> {
    let letters =
        ['\u{1aa}', '\u{1ab}', '\u{1ba}', '\u{18d}', '\u{1be}', '\u{221}', '\u{234}', '\u{235}', '\u{236}', '\u{19b}'];
    let digits = ('0'..='9').zip(letters).chain(('０'..='９').zip(letters));
    digits.map(|(digit, letter)| format!("{digit} => {letter}")).collect()
}

/// Files that were uploaded from a Mac have `か` and a combining mark where everyone types `が`.
fn composed_kana() -> Vec<String> {
    let voiced = "かきくけこさしすせそたちつてとはひふへほカキクケコサシスセソタチツテトハヒフヘホ";
    let plosive = "はひふへほハヒフヘホ";
    let next = |c: char, step: u32| char::from_u32(u32::from(c) + step).unwrap_or(c);
    let mut rules: Vec<String> = voiced.chars().map(|c| format!("{c}\u{3099} => {}", next(c, 1))).collect();
    rules.extend(plosive.chars().map(|c| format!("{c}\u{309a} => {}", next(c, 2))));
    rules.extend(["う\u{3099} => ゔ".to_owned(), "ウ\u{3099} => ヴ".to_owned()]);
    rules
}

/// The fields. Each `keyword` is cut off at 8,191 characters: longer ones would make Lucene refuse the document
/// (32,766 bytes of UTF-8), and S3 keys have 1,024 bytes at most.
fn fields(analyzer: Analyzer) -> Value {
    let exact = json!({ "type": "keyword", "ignore_above": 8191 });
    let text = json!({ "type": "text", "analyzer": analyzer.in_mapping() });
    let mut fields = json!({
        "key": { "type": "keyword", "ignore_above": 8191,
                 "fields": { "name": { "type": "text", "analyzer": "file_name" } } },
        "title": text, "content": text, "extraction_error": text,
        "size": { "type": "long" },
        "revision": { "type": "long" },
        "deleted": { "type": "boolean" },
        "truncated": { "type": "boolean" },
        "source_modified": { "type": "date" },
        "indexed_at": { "type": "date" },
        // Every value is found by its path, without a field of its own. It has no `ignore_above`: extraction keeps
        // values short, or one of more than 32,766 bytes would have its document refused.
        "meta": { "type": "flat_object" },
    });
    for name in [
        "bucket",
        "namespace",
        "tenant",
        "mime_type",
        "language",
        "sha256",
        "extension",
        "source_etag",
        "source_version_id",
        "extractor",
        "message_id",
        "original_message_id",
        "request_id",
    ] {
        fields[name] = exact.clone();
    }
    fields
}

/// How an index in use differs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Drift {
    /// Fields that a put-mapping can add or update.
    pub add: Map<String, Value>,
    /// What cannot be changed in place, a sentence each.
    pub conflicts: Vec<String>,
    /// Unknown fields would be mapped by themselves.
    pub dynamic: bool,
}

impl Drift {
    /// There is none.
    pub(super) fn is_none(&self) -> bool {
        self.conflicts.is_empty() && self.add.is_empty() && !self.dynamic
    }
}

/// Compares the mapping of an index in use (the object under `mappings`) with ours. Fields of others are left alone.
pub(super) fn drift(theirs: &Value, analyzer: Analyzer) -> Drift {
    let mut drift =
        Drift { dynamic: !matches!(theirs.get("dynamic"), Some(v) if v == "false" || v == false), ..Drift::default() };
    let Value::Object(ours) = fields(analyzer) else { return drift };
    for (name, our) in ours {
        let there = theirs.get("properties").and_then(|fields| fields.get(&name));
        match there.map(|there| field_drift(&name, &our, there)) {
            None | Some(FieldDrift::Updatable) => drop(drift.add.insert(name, our)),
            Some(FieldDrift::Same) => {}
            Some(FieldDrift::Conflict(sentence)) => drift.conflicts.push(sentence),
        }
    }
    drift
}

enum FieldDrift {
    Same,
    Updatable,
    Conflict(String),
}

fn field_drift(name: &str, our: &Value, there: &Value) -> FieldDrift {
    // What an index cannot change once it has documents.
    for fixed in ["type", "analyzer"] {
        let (wanted, has) = (our.get(fixed), there.get(fixed));
        // A field with properties of its own is an object, and says no type.
        if wanted != has {
            let word = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("none").to_owned();
            return FieldDrift::Conflict(format!("field {name} has {fixed} {}, not {}", word(has), word(wanted)));
        }
    }
    let mut same = our.get("ignore_above") == there.get("ignore_above");
    for (sub, our) in our.get("fields").and_then(Value::as_object).into_iter().flatten() {
        match there.pointer(&format!("/fields/{sub}")).map(|there| field_drift(&format!("{name}.{sub}"), our, there)) {
            Some(FieldDrift::Same) => {}
            Some(FieldDrift::Conflict(sentence)) => return FieldDrift::Conflict(sentence),
            None | Some(FieldDrift::Updatable) => same = false,
        }
    }
    if same { FieldDrift::Same } else { FieldDrift::Updatable }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Value {
        index_body(Analyzer::Cjk)["mappings"].clone()
    }

    #[test]
    fn the_fields_are_those_of_the_contract_and_no_others() {
        let contract = "bucket key namespace tenant title content mime_type language size sha256 extension source_etag \
            source_version_id source_modified indexed_at revision deleted truncated extractor extraction_error \
            message_id original_message_id request_id meta";
        let mut wanted: Vec<&str> = contract.split_whitespace().collect();
        wanted.sort_unstable();
        let fields = fields(Analyzer::Kuromoji);
        let mut have: Vec<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        have.sort_unstable();
        assert_eq!(have, wanted);
        assert_eq!(ours()["dynamic"], json!(false));
    }

    #[test]
    fn our_own_mapping_has_no_drift() {
        // As the server gives it back: `dynamic` as text.
        let mut back = ours();
        back["dynamic"] = json!("false");
        assert_eq!(drift(&back, Analyzer::Cjk), Drift::default());
    }

    #[test]
    fn an_index_is_known_by_its_analyzer_and_another_is_a_conflict_in_each_text_field() {
        for analyzer in Analyzer::ALL {
            let mut back = index_body(analyzer)["mappings"].clone();
            back["dynamic"] = json!("false");
            assert_eq!(Analyzer::of_mapping(&back), Some(analyzer));
            for wanted in Analyzer::ALL {
                let conflicts = drift(&back, wanted).conflicts;
                assert_eq!(conflicts.len(), if wanted == analyzer { 0 } else { 3 }, "{conflicts:?}");
            }
        }
        let theirs = json!({ "properties": { "content": { "type": "text", "analyzer": "their_own" } } });
        assert_eq!(Analyzer::of_mapping(&theirs), None);
        assert_eq!(Analyzer::of_mapping(&json!({ "properties": { "content": { "type": "text" } } })), None);
    }

    #[test]
    fn only_what_is_chosen_is_in_the_settings_for_without_its_plugin_it_could_not_be_created() {
        for analyzer in Analyzer::ALL {
            let words = settings(analyzer).to_string();
            assert_eq!(words.contains("kuromoji"), analyzer == Analyzer::Kuromoji, "{words}");
            assert!(!words.contains("icu_"), "{words}");
        }
    }

    #[test]
    fn each_digit_has_a_letter_of_its_own_without_case() {
        let rules = digits_as_letters();
        let letters: std::collections::BTreeSet<char> = rules.iter().filter_map(|rule| rule.chars().last()).collect();
        assert_eq!((rules.len(), letters.len()), (20, 10));
        for letter in letters {
            assert!(
                letter.is_alphabetic()
                    && letter.to_lowercase().eq([letter])
                    && ('\u{180}'..='\u{236}').contains(&letter)
            );
        }
        assert!(
            rules[7].starts_with('7')
                && rules[17].starts_with('７')
                && rules[7].chars().last() == rules[17].chars().last()
        );
    }

    #[test]
    fn a_missing_field_or_subfield_can_be_added() {
        let mut back = ours();
        back["properties"].as_object_mut().unwrap().remove("request_id");
        back["properties"]["key"].as_object_mut().unwrap().remove("fields");
        back["properties"]["theirs"] = json!({ "type": "keyword" });
        let drift = drift(&back, Analyzer::Cjk);
        assert_eq!(drift.add.keys().collect::<Vec<_>>(), ["key", "request_id"]);
        assert_eq!(drift.conflicts, Vec::<String>::new());
    }

    #[test]
    fn another_type_or_analyzer_is_a_conflict() {
        let mut back = ours();
        back["properties"]["size"] = json!({ "type": "keyword" });
        back["properties"]["content"] = json!({ "type": "text" });
        back["properties"]["meta"] = json!({ "properties": { "a": { "type": "text" } } });
        back["properties"]["key"]["fields"]["name"] = json!({ "type": "keyword" });
        let drift = drift(&back, Analyzer::Cjk);
        assert_eq!(
            drift.conflicts,
            [
                "field content has analyzer none, not cjk",
                "field key.name has type keyword, not text",
                "field meta has type none, not flat_object",
                "field size has type keyword, not long"
            ]
        );
        assert!(drift.add.is_empty());
    }

    #[test]
    fn an_index_that_maps_unknown_fields_by_itself_is_told() {
        for (dynamic, expected) in [(json!(null), true), (json!("true"), true), (json!("false"), false)] {
            let mut back = ours();
            back["dynamic"] = dynamic.clone();
            assert_eq!(drift(&back, Analyzer::Cjk).dynamic, expected, "{dynamic}");
        }
    }

    #[test]
    fn decomposed_kana_are_composed() {
        let rules = composed_kana();
        for rule in ["か\u{3099} => が", "ホ\u{3099} => ボ", "は\u{309a} => ぱ", "ヘ\u{309a} => ペ", "ウ\u{3099} => ヴ"]
        {
            assert!(rules.iter().any(|r| r == rule), "{rule}");
        }
        assert_eq!(rules.len(), 52);
    }
}
