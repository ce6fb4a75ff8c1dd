//! The failpoints (src/failpoint.rs) are in the binary that tests kill, and in no other: looked up in its bytes.

const NAMES: [&str; 15] = [
    "after_receive",
    "before_get",
    "mid_body",
    "after_parse",
    "before_index",
    "after_index_ack",
    "after_verify",
    "before_park",
    "after_park_ack",
    "before_dlq_send",
    "after_dlq_ack",
    "before_delete",
    "after_delete_sent",
    "before_return",
    "QUITTANCE_FAILPOINTS",
];

#[test]
fn a_worker_built_without_the_feature_knows_no_failpoint_and_one_with_it_knows_all() {
    let worker = std::fs::read(env!("CARGO_BIN_EXE_worker")).unwrap();
    let text = String::from_utf8_lossy(&worker); // searched by std's own code, which is fast in every profile
    let there: Vec<&str> = NAMES.iter().copied().filter(|name| text.contains(name)).collect();
    if cfg!(feature = "failpoints") {
        assert_eq!(there, NAMES);
    } else {
        assert_eq!(there, Vec::<&str>::new());
    }
}
