//! A1.1: messages that can only be dead-lettered, and kills round the send and the delete.

use std::collections::BTreeSet;
use std::time::Instant;

use fastrand::Rng;
use quittance::failpoint::Point;

use crate::armed::sick_index;
use crate::cell::{Cell, Due};
use crate::lives::{Death, Plan, live};
use crate::storm::{judged, number, report};

const MESSAGES: usize = 1_000;
/// `after_dlq_send` of the row is `after_dlq_ack` of the list.
const POINTS: [Point; 4] = [Point::BeforeDlqSend, Point::AfterDlqAck, Point::BeforeDelete, Point::AfterDeleteSent];
/// At each point, of this many kills elsewhere (`KILLS`): 100 of 2,800.
const ONE_OF: usize = 28;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the local stack: make test"]
async fn a1_1_a_thousand_terminal_messages_are_dead_lettered_each_under_its_work_id_whatever_is_killed() {
    let began = Instant::now();
    let mut rng = Rng::new();
    // One message in hand at a time: so a kill leaves one copy at most.
    let cell = Cell::new(1).await;
    cell.send_many(MESSAGES).await;
    let each = (number("KILLS", 0) / ONE_OF).max(3);
    // Kills are spread over the whole of the messages, with some left for the last workers.
    let hits = u32::try_from((MESSAGES / (each * POINTS.len()).max(1)).clamp(1, 20)).unwrap();
    let mut deaths: Vec<Point> = POINTS.iter().flat_map(|point| std::iter::repeat_n(*point, each)).collect();
    rng.shuffle(&mut deaths);
    let (one, two) = deaths.split_at(deaths.len() / 2);
    let sick_index = sick_index();
    let lives = async |deaths: &[Point], mut rng: Rng| {
        let mut lives = Vec::new();
        for point in deaths {
            let plan = Plan { death: Death::At(*point), hits, sick_index: &sick_index, feed: false };
            let life = live(&cell, &plan, &mut rng).await;
            assert_eq!(life.death, plan.death, "not reached: are there no messages left?");
            lives.push(life);
        }
        lives
    };
    let (mut one, two) = tokio::join!(lives(one, rng.fork()), lives(two, rng.fork()));
    one.extend(two);
    let kills = one.len();
    let judged = judged(&cell, one).await;
    assert_eq!((judged.found.distinct, judged.found.crash_loops.len()), (MESSAGES, 0));
    assert!(judged.found.letters <= MESSAGES + kills, "{} letters after {kills} kills", judged.found.letters);
    assert_eq!(judged.found.work_ids.len(), MESSAGES, "distinct work ids in the DLQ");
    let sent = cell.ledger.lock().await;
    let bodies: BTreeSet<&str> =
        sent.sent.values().map(|due| if let Due::Letter { body, .. } = due { body.as_str() } else { "" }).collect();
    assert_eq!(bodies.len(), MESSAGES, "a body of its own for each");
    report(&[judged], began.elapsed());
}
