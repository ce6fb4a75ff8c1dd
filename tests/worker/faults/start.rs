//! The calls at start: what is not there is one line and exit 75 before anything is received (P20), what stumbles once
//! is asked again, and OpenSearch is never a reason not to start (P4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::Launch;
use crate::relay::{Answer, Bend, Fate, Head, Relay, answers};
use crate::search::endpoint;
use crate::world::World;

use super::plan::{Plan, Position};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Queue,
    /// The DLQ by the redrive policy's ARN.
    DlqUrl,
    Bucket,
    Search,
}

impl Call {
    fn is(self, head: &Head) -> bool {
        match self {
            Call::Queue => head.target == "AmazonSQS.GetQueueAttributes",
            Call::DlqUrl => head.target == "AmazonSQS.GetQueueUrl",
            Call::Bucket => head.method == "GET" && head.path.contains("list-type=2"),
            Call::Search => true,
        }
    }

    fn names(self) -> &'static str {
        match self {
            Call::Queue => "SQS_QUEUE_URL",
            Call::DlqUrl => "SQS_DLQ_URL",
            Call::Bucket => "S3_BUCKET",
            Call::Search => "",
        }
    }
}

/// All that can be wrong with a call, and whether a second try inside the SDK helps.
fn faults(call: Call) -> Vec<(&'static str, Fate, bool)> {
    let answer = |sqs: (u16, &str), s3: (u16, &str), search: (u16, &str)| {
        Fate::Answer(match call {
            Call::Queue | Call::DlqUrl => answers::sqs(sqs.0, sqs.1),
            Call::Bucket => answers::s3(s3.0, s3.1),
            Call::Search => answers::search(search.0, search.1, "the fault proxy says so"),
        })
    };
    vec![
        ("refused", Fate::Down, false),
        ("reset", Fate::Reset, true),
        ("lost reply", Fate::LoseReply, true),
        ("denied", answer((403, "AccessDenied"), (403, "AccessDenied"), (403, "security_exception")), false),
        (
            "throttled",
            answer((400, "RequestThrottled"), (503, "SlowDown"), (429, "rejected_execution_exception")),
            true,
        ),
        ("internal", answer((500, "InternalFailure"), (500, "InternalError"), (500, "exception")), true),
        ("expired", answer((403, "ExpiredTokenException"), (400, "ExpiredToken"), (401, "security_exception")), false),
        (
            "missing",
            answer((400, "QueueDoesNotExist"), (404, "NoSuchBucket"), (404, "index_not_found_exception")),
            false,
        ),
        ("hang", Fate::Hold, true),
        ("stall", Fate::Bend(Bend::StallAt(20)), true),
        ("cut", Fate::Bend(Bend::CutAt(20)), true),
        ("garbage", Fate::Answer(Answer::html(200)), false),
    ]
}

async fn starts(world: Arc<World>, call: Call, fate: Fate, position: Position, must: bool) {
    let (aws, search) = (world.aws_relay(), Relay::before(&endpoint()));
    let relay = if call == Call::Search { &search } else { &aws };
    let plan = Plan::lay(relay, move |head| call.is(head), fate, position);
    let launch = world.launch().set("AWS_ENDPOINT_URL", aws.url()).set("OPENSEARCH_ENDPOINT", search.url());
    if must {
        let mut worker = launch.start().await;
        assert!(plan.hits() > 0, "not hit");
        assert_eq!(worker.stop().await.of("received"), 0);
        return;
    }
    let began = Instant::now();
    let output = tokio::task::spawn_blocking(move || Launch::run(&launch, &[])).await.unwrap();
    assert_eq!(output.code, 75, "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    assert!(output.stderr.contains(call.names()), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(40), "it took {:?}", began.elapsed());
    let polls = aws.seen(|head| head.target == "AmazonSQS.ReceiveMessage");
    assert!(polls.is_empty(), "it asked for messages");
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p20_a_start_without_its_dependencies_exits_75_before_it_receives_and_one_stumble_is_forgiven() {
    tokio::task::LocalSet::new().run_until(all_starts()).await;
}

async fn all_starts() {
    let world = Arc::new(World::silent().await);
    let mut running = tokio::task::JoinSet::new();
    let mut names = std::collections::HashMap::new();
    for call in [Call::Queue, Call::DlqUrl, Call::Bucket, Call::Search] {
        for (name, fate, forgiven) in faults(call) {
            let optional = call == Call::Search;
            let mut rows = vec![(fate.clone(), Position::While, optional)];
            if forgiven && !optional {
                rows.push((fate, Position::First, true));
            }
            for (fate, position, must) in rows {
                let row = running.spawn_local(starts(Arc::clone(&world), call, fate, position, must));
                names.insert(row.id(), format!("{call:?}, {name}, {position:?}"));
            }
        }
    }
    let mut wrong = Vec::new();
    while let Some(ended) = running.join_next_with_id().await {
        if let Err(panic) = ended {
            wrong.push(format!("{}: {}", names[&panic.id()], crate::stories::text(panic)));
        }
    }
    assert!(wrong.is_empty(), "{} failed:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(world.depth(&world.queue).await, (0, 0, 0));
}
