//! `redrive parked` on real services: replay now, lists, errored documents that are sent back, and every exit code.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::outage::CLOSED_PORT;
use crate::process::{Launch, Output};
use crate::relay::{Fate, Refuse, Relay};
use crate::search::endpoint;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{NAMESPACE, World, text_files};

/// An operator of this world.
fn operator(world: &World) -> Launch {
    Launch::bare()
        .set("S3_BUCKET", &world.results)
        .set("NAMESPACE", NAMESPACE)
        .set("OPENSEARCH_ENDPOINT", endpoint())
        .set("OPENSEARCH_INDEX", &world.search.alias)
}

fn report(output: &Output, code: i32) -> Value {
    assert_eq!((output.code, output.stderr.as_str()), (code, ""), "silent off a terminal: {output:?}");
    assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
    serde_json::from_str(&output.stdout).expect("JSON on stdout")
}

/// So many files, recorded and parked by a worker without an index, which has ended.
async fn park(world: &World, number: usize) -> Vec<String> {
    let files = text_files(number);
    let mut worker = world.launch().unset("OPENSEARCH_ENDPOINT").set("SKIP_OPENSEARCH", true).start().await;
    world.put_all(&files).await;
    worker.settled(number).await;
    world.emptied().await;
    worker.stop().await;
    files.into_keys().collect()
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn redrive_parked_replays_what_is_parked_obeys_a_pause_and_refuses_beside_another() {
    let world = World::new().await;
    let keys = park(&world, 8).await;
    let operator = operator(&world);
    let listed = report(&operator.redrive(&["parked", "--list", "--json"]), 0);
    assert_eq!((&listed["parked"], &listed["errored"], &listed["read"]), (&json!(8), &json!(0), &json!(8)));
    assert_eq!(listed["reasons"], json!({ "SKIP_OPENSEARCH is set": 8 }));
    let text = operator.redrive(&["parked", "--list"]);
    assert!(text.code == 0 && text.stdout.contains("8 parked, 0 errored"), "{text:?}");

    operator.redrive(&["pause", "--reason", "incident 7", "--by", "ada"]);
    let paused = report(&operator.redrive(&["parked", "--json"]), 4);
    assert_eq!((&paused["paused_by"], &paused["reason"]), (&json!("ada"), &json!("incident 7")));
    assert_eq!(operator.redrive(&["parked", "--errored", "--reset"]).code, 4);
    assert_eq!(operator.redrive(&["parked", "--list"]).code, 0, "to look is no work");
    operator.redrive(&["resume"]);

    // Another that lives: its lease changes while it is looked at.
    let (bucket, s3) = (world.results.clone(), world.s3.clone());
    let beating = tokio::spawn(async move {
        for beat in 0_u64.. {
            let body = json!({ "v": 1, "holder": "x", "by": "worker x on elsewhere", "namespace": NAMESPACE,
                "since": "2026-11-21T22:00:00.000Z", "beat": beat });
            let put = s3.put_object().bucket(&bucket).key("control/replay.json");
            put.body(body.to_string().into_bytes().into()).send().await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    });
    eventually("the other holds it", LONG, async || {
        holds(world.result("control/replay.json").await.is_some(), "nobody")
    })
    .await;
    let busy = operator.clone();
    let refused = tokio::task::spawn_blocking(move || busy.redrive(&["parked"])).await.unwrap();
    assert_eq!((refused.code, refused.stderr.as_str()), (4, ""), "{refused:?}");
    assert!(
        refused.stdout.contains("worker x on elsewhere") && refused.stdout.contains("2026-11-21T22"),
        "{refused:?}"
    );
    beating.abort();
    let _ = beating.await;
    assert_eq!(world.search.keys().await, Vec::<String>::new());

    let free = json!({ "v": 1, "holder": null, "by": "x", "namespace": NAMESPACE, "since": "", "beat": 9 });
    world.put_into(&world.results, "control/replay.json", free.to_string()).await;
    let done = report(&operator.redrive(&["parked", "--json"]), 0);
    assert_eq!((&done["ended"], &done["replayed"], &done["left"]), (&json!("done"), &json!(8), &json!(0)), "{done}");
    world.finds_exactly(keys).await;
    assert_eq!(world.results_under("retry-index/").await, Vec::<String>::new());
    let (lease, _) = world.result("control/replay.json").await.unwrap();
    assert_eq!(lease["holder"], Value::Null, "let go");
    assert_eq!(report(&operator.redrive(&["parked", "--json"]), 0)["replayed"], 0);
}

/// The first document of each bulk request does not fit the mapping.
pub fn refuse_documents(search: &Relay) {
    let refuse = Refuse {
        positions: vec![0],
        code: "mapper_parsing_exception",
        status: 400,
        sender_fault: true,
        passed_on: false,
    };
    search.rule(move |head| if head.path.contains("_bulk") { Fate::Refuse(refuse.clone()) } else { Fate::Pass });
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_errored_is_listed_sent_back_and_found_when_the_index_takes_it() {
    let world = World::new().await;
    let search = Relay::before(&endpoint());
    refuse_documents(&search);
    let mut worker = world.launch().set("OPENSEARCH_ENDPOINT", search.url()).start().await;
    world.put("日本/あ.txt", "An axolotl that was refused.").await;
    worker.fact("document_errored").await;
    worker.settled(1).await;
    world.emptied().await;
    worker.stop().await;

    let operator = operator(&world);
    let errored = report(&operator.redrive(&["parked", "--errored", "--json"]), 0);
    assert_eq!((&errored["errored"], &errored["documents"][0]["key"]), (&json!(1), &json!("日本/あ.txt")), "{errored}");
    assert!(errored["documents"][0]["reason"].as_str().unwrap().contains("mapper_parsing_exception"), "{errored}");
    let text = operator.redrive(&["parked", "--errored", "--key-prefix", "日本/"]);
    assert!(text.stdout.contains("日本/あ.txt") && text.stdout.contains("mapper_parsing"), "{text:?}");
    assert_eq!(report(&operator.redrive(&["parked", "--json"]), 0)["replayed"], 0, "nothing is parked");

    let other = report(&operator.redrive(&["parked", "--errored", "--reset", "--key-prefix", "x", "--json"]), 0);
    assert_eq!((&other["reset"], &other["not_matching"]), (&json!(0), &json!(1)));
    let reset = report(&operator.redrive(&["parked", "--errored", "--reset", "--json"]), 0);
    assert_eq!(reset["reset"], 1);
    assert_eq!(world.results_under("errored-index/").await, Vec::<String>::new());
    assert_eq!(world.results_under("retry-index/").await.len(), 1);

    // The index refuses it still: it comes back, and the exit code says that something did not get in.
    let again = operator.clone().set("OPENSEARCH_ENDPOINT", search.url());
    let partial = report(&again.redrive(&["parked", "--json"]), 3);
    assert_eq!((&partial["ended"], &partial["errored"]), (&json!("done"), &json!(1)), "{partial}");
    search.release();
    assert_eq!(operator.redrive(&["parked", "--errored", "--reset"]).code, 0);
    assert_eq!(report(&again.redrive(&["parked", "--json"]), 0)["replayed"], 1);
    world.finds("axolotl", "日本/あ.txt").await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn an_event_that_is_sent_again_tries_an_errored_file_again() {
    let world = World::new().await;
    let search = Relay::before(&endpoint());
    refuse_documents(&search);
    let mut worker = world.launch().set("OPENSEARCH_ENDPOINT", search.url()).start().await;
    world.put("a.txt", "A tortoise that was refused.").await;
    worker.fact("document_errored").await;
    worker.settled(1).await;
    search.release();
    world.put("a.txt", "A tortoise that was refused.").await;
    worker.settled(2).await;
    world.finds("tortoise", "a.txt").await;
    worker.stop().await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn ctrl_c_ends_it_with_the_lease_let_go_and_says_how_to_go_on() {
    for signal in [Signal::INT, Signal::HUP] {
        let world = World::new().await;
        let keys = park(&world, 3).await;
        let search = Relay::before(&endpoint());
        search.rule(|head| if head.path.contains("_bulk") { Fate::Hold } else { Fate::Pass });
        let child = operator(&world).set("OPENSEARCH_ENDPOINT", search.url()).spawn_redrive(&["parked"]);
        eventually("it replays", LONG, async || {
            let asked = search.seen(|head| head.path.contains("_bulk")).len();
            holds(asked > 0, asked)
        })
        .await;
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(text.contains("interrupted") && text.contains("to go on: redrive parked"), "{text}");
        let (lease, _) = world.result("control/replay.json").await.unwrap();
        assert_eq!(lease["holder"], Value::Null, "let go");
        search.release();
        assert_eq!(report(&operator(&world).redrive(&["parked", "--json"]), 0)["replayed"], 3);
        world.finds_exactly(keys).await;
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn without_an_index_or_a_bucket_it_exits_75_with_one_line() {
    let world = World::silent().await;
    let down = operator(&world).set("OPENSEARCH_ENDPOINT", CLOSED_PORT).redrive(&["parked"]);
    assert_eq!((down.code, down.stdout.as_str(), down.stderr.lines().count()), (75, "", 1), "{down:?}");
    assert!(down.stderr.contains("OPENSEARCH_ENDPOINT"), "{down:?}");
    for arguments in
        [&["parked"][..], &["parked", "--list"], &["parked", "--errored"], &["parked", "--errored", "--reset"]]
    {
        let gone = operator(&world).set("S3_BUCKET", "gone-results").redrive(arguments);
        assert_eq!((gone.code, gone.stdout.as_str(), gone.stderr.lines().count()), (75, "", 1), "{gone:?}");
    }
}

#[test]
fn redrive_parked_says_what_is_wrong_with_its_flags_and_settings() {
    let bare = Launch::bare().unset("AWS_ENDPOINT_URL").set("S3_BUCKET", "results").set("AWS_REGION", "eu-central-1");
    for (arguments, says) in [
        (&["parked", "--reset"][..], "--errored"),
        (&["parked", "--list", "--errored"], "cannot be used with"),
        (&["parked", "--key-prefix", "a"], "--errored"),
        (&["parked", "--errored", "--limit", "0"], "0 is not in"),
        (&["parked", "--errored", "--reset", "--limit", "5"], "cannot be used with"),
    ] {
        let output = bare.redrive(arguments);
        assert_eq!((output.code, output.stdout.as_str()), (64, ""), "{output:?}");
        assert!(output.stderr.contains(says), "{output:?}");
    }
    let settings = bare.clone().set("FAILED_RETRY_MAX_RETRIES", "x").set("NAMESPACE", "No").redrive(&["parked"]);
    assert_eq!((settings.code, settings.stderr.lines().count()), (78, 4), "{settings:?}");
    for name in ["FAILED_RETRY_MAX_RETRIES", "NAMESPACE", "OPENSEARCH_ENDPOINT"] {
        assert!(settings.stderr.contains(name), "{settings:?}");
    }
    let skip = bare.clone().set("SKIP_OPENSEARCH", "true").redrive(&["parked"]);
    assert!(skip.code == 78 && skip.stderr.contains("nothing to replay into"), "{skip:?}");
    let help = bare.redrive(&["parked", "--help"]).stdout;
    for text in ["Examples:", "Exit codes:", "[env: OPENSEARCH_ENDPOINT]", "[env: FAILED_RETRY_MAX_RETRIES]", "  130 "]
    {
        assert!(help.contains(text), "{text}: {help}");
    }
    assert!(!help.contains("eu-central-1") && !help.contains("[env: OPENSEARCH_PASSWORD="), "{help}");
}
