//! `redrive inspect` as an operator runs it, on the real services.

use serde_json::{Value, json};

use crate::browser::{Browser, inspection};
use crate::waiting::{LONG, eventually, holds};
use crate::world::World;

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_dead_the_archived_and_the_errored_are_told_apart_and_nothing_is_moved() {
    let world = World::silent().await;
    let mut worker = world.launch().set("MAX_ATTEMPTS", 1).start().await;
    let hostile = "<script>alert(1)</script>/a&b.txt";
    for n in 0..12 {
        world.send(&format!("no event {n}")).await;
    }
    world.send(&json!({ "bucket": "elsewhere", "key": hostile }).to_string()).await;
    eventually("13 dead letters", LONG, async || {
        let depth = world.depth(&world.dlq).await;
        holds(depth.0 == 13, depth)
    })
    .await;
    worker.stop().await;
    let redrive = |arguments: &[&str]| world.launch().redrive(arguments);
    assert_eq!(redrive(&["archive", "save", "--queue", "dlq", "--json"]).code, 0, "copies");
    assert_eq!(world.depth(&world.dlq).await, (13, 0, 0));

    let told = |arguments: &[&str]| {
        let output = redrive(arguments);
        let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (report, output.code)
    };
    let (blind, code) = told(&["inspect", "--json"]);
    assert_eq!(
        (&blind["queue"]["visible"], &blind["received"], &blind["dlq"]["read"], code),
        (&13.into(), &0.into(), &0.into(), 0)
    );
    let number = |place: &Value, table: &str, name: &str| {
        let rows = place[table].as_array().unwrap().iter();
        rows.filter(|row| row["name"] == name).map(|row| row["number"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(number(&blind["archive"], "by_reason", "malformed"), 12);
    assert_eq!(number(&blind["archive"], "by_reason", "not_allowed"), 1);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let (sampled, code) = told(&["inspect", "--sample", "100", "--json", "--html", file.to_str().unwrap()]);
    assert_eq!((&sampled["received"], &sampled["not_returned"], code), (&13.into(), &0.into(), 0), "{sampled}");
    assert_eq!(number(&sampled["dlq"], "by_reason", "malformed"), 12);
    assert_eq!(number(&sampled["dlq"], "by_tenant", "<script>alert(1)<"), 1, "{}", sampled["dlq"]);
    // 14 days of retention, less than an hour old.
    let left = sampled["first_expires"]["in_s"].as_u64().unwrap();
    assert!((1_206_000..=1_209_600).contains(&left), "{left}");
    assert_eq!(world.depth(&world.dlq).await, (13, 0, 0), "all returned");
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(
        page.starts_with("<!DOCTYPE html>") && page.contains("&lt;script&gt;alert(1)") && !page.contains("<script")
    );
    let mut browser = Browser::start();
    inspection::shows(&mut browser, &file, &sampled);
    browser.looks_well("inspect-of-the-stack");

    let text = redrive(&["inspect", "--since", "1h"]);
    assert!(text.code == 0 && text.stdout.contains("nothing was received"), "{text:?}");
    let nowhere = redrive(&["inspect", "--html", "/no/such/folder/report.html"]);
    assert!(nowhere.code == 75 && nowhere.stderr.contains("cannot write"), "{nowhere:?}");
    assert_eq!(redrive(&["inspect", "--message-id", "nobody"]).code, 3);
}
