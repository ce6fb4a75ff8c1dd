//! `worker migrate-index` as an operator runs it, beside workers that go on.

use opensearch::http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::process::{Launch, Output};
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

fn migrator(world: &World, analyzer: &str) -> Launch {
    world.launch().set("OPENSEARCH_ANALYZER", analyzer)
}

/// The index in use, `v1`; both aliases must stand for it.
async fn of_alias(world: &World) -> String {
    let alias = &world.search.alias;
    let (_, found) = world.search.ask(Method::Get, &format!("/_alias/{alias},{alias}-search"), None).await;
    let found = found.as_object().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let (index, aliases) = found.iter().next().unwrap();
    assert!(aliases["aliases"][alias]["is_write_index"] == true, "{aliases}");
    assert!(aliases["aliases"][format!("{alias}-search")]["filter"].is_object(), "{aliases}");
    index.rsplit('-').next().unwrap().to_owned()
}

async fn exists(world: &World, version: &str) -> bool {
    world.search.ask(Method::Get, &format!("/{}-{version}", world.search.alias), None).await.0 == 200
}

async fn analyzer(world: &World) -> Value {
    let (_, found) = world.search.ask(Method::Get, &format!("/{}/_mapping", world.search.alias), None).await;
    found.as_object().unwrap().values().next().unwrap()["mappings"]["properties"]["content"]["analyzer"].clone()
}

fn report(output: &Output, code: i32) -> Value {
    assert_eq!(output.code, code, "{output:?}");
    serde_json::from_str::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))["report"].clone()
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_index_moves_to_another_analyzer_while_a_worker_goes_on_and_nothing_is_missing() {
    let world = World::new().await;
    assert_eq!(analyzer(&world).await, "japanese_words", "auto, and the local OpenSearch has the plugin");
    let files = text_files(24);
    let keys: Vec<&String> = files.keys().collect();
    let mut worker = world.launch().start().await;
    for key in &keys[..12] {
        world.put(key, files[*key].clone()).await;
    }
    world.finds_exactly(keys[..12].iter().map(|key| key.as_str())).await;
    world.remove(keys[0]).await;
    world.finds_exactly(keys[1..12].iter().map(|key| key.as_str())).await;

    let launch = migrator(&world, "cjk");
    let moving = tokio::task::spawn_blocking(move || launch.run(&["migrate-index", "--json"]));
    for key in &keys[12..] {
        world.put(key, files[*key].clone()).await;
    }
    world.put(keys[1], "overwritten meanwhile").await;
    world.remove(keys[2]).await;
    let moved = report(&moving.await.unwrap(), 0);
    assert_eq!((&moved["ended"], &moved["tally"]["passes"]), (&json!("moved"), &json!(3)), "{moved}");
    assert_eq!((of_alias(&world).await.as_str(), analyzer(&world).await), ("v2", json!("cjk")));
    world.finds_exactly(keys[1..].iter().filter(|key| **key != keys[2]).map(|key| key.as_str())).await;
    world.finds("overwritten meanwhile", keys[1]).await;
    world.emptied().await;
    worker.stop().await;
    for gone in [keys[0], keys[2]] {
        let tombstone = world.search.stored(&world.document_id(gone)).await.unwrap();
        assert!(tombstone["deleted"] == true && tombstone["content"].is_null(), "{tombstone}");
    }
    assert!(exists(&world, "v1").await, "the old index is kept");
    let step = world.launch().redrive(&["reconcile", "--min-age", "0", "--json"]);
    assert_eq!(step.code, 0, "bucket, records and index are in step: {step:?}");

    // As it should be: nothing to do.
    let same = report(&migrator(&world, "cjk").run(&["migrate-index", "--json"]), 0);
    assert_eq!((&same["ended"], of_alias(&world).await.as_str()), (&json!("same"), "v2"));
    let kept = migrator(&world, "auto").run(&["setup-index"]);
    assert!(kept.code == 0 && kept.stdout.contains("text by analyzer cjk; `worker migrate-index`"), "{kept:?}");
    let other = migrator(&world, "icu").run(&["setup-index"]);
    assert!(other.code == 78 && other.stdout.contains("`worker migrate-index` builds"), "{other:?}");
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn killed_at_any_moment_the_same_command_goes_on() {
    let world = World::new().await;
    let files = text_files(40);
    world.put_all(&files).await;
    let mut worker = world.launch().start().await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    worker.stop().await;
    // As soon as the next index is there; as soon as it holds something; as soon as the aliases have moved.
    let next = format!("{}-next", world.search.alias);
    for moment in ["begun", "half", "moved"] {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_worker"))
            .arg("migrate-index")
            .env_clear()
            .envs(&migrator(&world, "icu").environment)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let reached = async || {
            let holds_some = async || {
                world.search.ask(Method::Post, &format!("/{next}/_refresh"), None).await;
                let (_, count) = world.search.ask(Method::Get, &format!("/{next}/_count"), None).await;
                count["count"].as_u64().is_some_and(|count| count > 0)
            };
            match moment {
                "begun" => exists(&world, "v2").await,
                "half" => holds_some().await,
                _ => of_alias(&world).await == "v2",
            }
        };
        eventually(moment, LONG, async || holds(child.try_wait().unwrap().is_some() || reached().await, ())).await;
        if let Some(pid) = child.id() {
            kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        }
        child.wait().await.unwrap();
    }
    let last = migrator(&world, "icu").run(&["migrate-index", "--json"]);
    let ended = report(&last, 0)["ended"].clone();
    assert!(ended == "moved" || ended == "same", "{last:?}");
    assert_eq!((of_alias(&world).await.as_str(), analyzer(&world).await), ("v2", json!("icu_analyzer")));
    assert_eq!(world.search.keys().await, files.into_keys().collect::<Vec<_>>());
    assert!(exists(&world, "v1").await);
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_cannot_be_migrated_is_refused_with_the_way_out() {
    let world = World::new().await;
    let other = World::sharing(&world.search).await;
    other.put("theirs.txt", "of another results bucket").await;
    other.send(&json!({ "bucket": other.source, "key": "theirs.txt" }).to_string()).await;
    world.put("ours.txt", "of this one").await;
    let mut workers = [world.launch().start().await, other.launch().start().await];
    world.finds_exactly(["ours.txt", "theirs.txt"]).await;
    for worker in &mut workers {
        worker.stop().await;
    }
    let blocked = migrator(&world, "icu").run(&["migrate-index"]);
    assert!(blocked.code == 78 && blocked.stdout.contains("--leave-behind"), "{blocked:?}");
    let lines = blocked.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> = lines.filter(|line| line["event"] == "migration_trouble").collect();
    assert!(told.len() == 1 && told[0]["name"].as_str().unwrap().contains("theirs.txt"), "{told:?}");
    assert_eq!(of_alias(&world).await, "v1");
    let conflict = migrator(&world, "cjk").run(&["migrate-index"]);
    assert!(conflict.code == 78 && conflict.stdout.contains("OPENSEARCH_ANALYZER=icu"), "{conflict:?}");
    let moved = migrator(&world, "icu").run(&["migrate-index", "--leave-behind"]);
    assert_eq!((moved.code, of_alias(&world).await.as_str()), (0, "v2"), "{moved:?}");
    assert!(moved.stdout.contains(&format!("DELETE /{}-v1", world.search.alias)), "{moved:?}");
    assert_eq!(world.search.keys().await, ["ours.txt"]);

    let skipped = world.launch().set("SKIP_OPENSEARCH", true).run(&["migrate-index"]);
    assert_eq!((skipped.code, skipped.stdout.as_str()), (78, ""), "{skipped:?}");
    let down = world.launch().set("OPENSEARCH_ENDPOINT", "http://127.0.0.1:1").run(&["migrate-index"]);
    assert_eq!((down.code, down.stdout.as_str()), (75, ""), "{down:?}");
    let missing = world.launch().set("OPENSEARCH_INDEX", "no-such-index").run(&["migrate-index"]);
    assert!(missing.code == 75 && missing.stderr.contains("setup-index"), "{missing:?}");
    let unknown = migrator(&world, "ngram").run(&["migrate-index"]);
    assert!(
        unknown.code == 78 && unknown.stderr.contains("give one of auto, kuromoji, icu, cjk, standard"),
        "{unknown:?}"
    );
}
