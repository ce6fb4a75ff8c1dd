//! `force`: work anew on a file that has not changed raises its revision and never lowers its order (P8).

use quittance::message::Sequencer;
use quittance::upkeep::bodies;

use super::{SECOND, drain, in_step, setup, standing};
use crate::sim::{Asking, Cut, Record, SOURCE, Site, s3_event, sequencer, until};

#[tokio::test(start_paused = true)]
async fn a_forced_file_has_a_higher_revision_and_the_order_it_had() {
    let site = Site::new(1);
    let world = &site.world;
    world.upload("a.txt", "text", 5);
    drain(&site).await;
    let before = standing(world, "a.txt").unwrap();
    world.queue.put(bodies::look_at(SOURCE, "a.txt", true));
    let line = drain(&site).await;
    let after = standing(world, "a.txt").unwrap();
    assert_eq!((line.done, site.reader.works("a.txt")), (1, 2), "read again");
    assert!(after.revision > before.revision);
    assert_eq!((&after.sequencer, &after.source_etag), (&before.sequencer, &before.source_etag));
    assert_eq!(in_step(world, "a.txt"), Ok(()));
    // An older event that comes late is superseded, by the order that was kept.
    let head = world.store.object(SOURCE, "a.txt").unwrap().head;
    world.queue.put(s3_event(&[Record::created(SOURCE, "a.txt", &head, 4)]));
    let line = drain(&site).await;
    assert_eq!((line.superseded, standing(world, "a.txt").unwrap()), (1, after.clone()));
    // And a newer one is not held up by it.
    world.upload("a.txt", "newer text", 6);
    drain(&site).await;
    let last = standing(world, "a.txt").unwrap();
    assert!(last.revision > after.revision);
    assert_eq!(last.sequencer, Sequencer::parse(&sequencer(6)));
    assert_eq!(in_step(world, "a.txt"), Ok(()));
}

/// Its own record is the one thing that it finds equal: a message that is delivered again is not work again.
#[tokio::test(start_paused = true)]
async fn a_forced_message_that_is_delivered_again_goes_on_from_its_own_record() {
    let site = Site::new(2);
    let world = &site.world;
    world.upload("a.txt", "text", 5);
    drain(&site).await;
    world.queue.put(bodies::look_at(SOURCE, "a.txt", true));
    let first = site.start("first", &setup());
    first.wires.cut_at(|asking: &Asking| (asking.verb == "bulk").then_some(Cut::Before));
    until("it is killed between record and index", 60 * SECOND, || first.wires.is_cut()).await;
    first.crash();
    let written = standing(world, "a.txt").unwrap();
    drain(&site).await;
    assert_eq!((standing(world, "a.txt").unwrap(), site.reader.works("a.txt")), (written, 2));
    assert_eq!(in_step(world, "a.txt"), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_forced_file_that_is_gone_becomes_a_tombstone_and_one_that_nobody_knows_no_dead_end() {
    let site = Site::new(3);
    let world = &site.world;
    world.upload("gone.txt", "text", 5);
    drain(&site).await;
    world.store.remove_object(SOURCE, "gone.txt");
    world.queue.put(bodies::look_at(SOURCE, "gone.txt", true));
    drain(&site).await;
    assert_eq!(standing(world, "gone.txt").unwrap().source_etag, None);
    assert_eq!(in_step(world, "gone.txt"), Ok(()));
    assert_eq!(world.dead_letters.live(), []);
}
