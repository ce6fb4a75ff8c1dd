//! What anybody may have put under `archive/`: it is told of, it stops nobody, and it deletes nothing.

use super::*;

fn put(world: &World, name: &str, letter: &Archived) {
    world.store.put_object(
        RESULTS,
        &format!("archive/dlq/2026-11-22/{name}.json"),
        serde_json::to_vec(letter).unwrap(),
    );
}

/// An archived letter of its own id.
fn given_up(n: usize) -> Archived {
    Archived::of(&letter(n, None), None, "denied", "403", crate::sim::EPOCH_MS, None)
}

#[tokio::test(start_paused = true)]
async fn objects_that_sqs_would_not_take_are_told_of_and_stop_nobody_behind_them() {
    let site = Site::new(1);
    let world = &site.world;
    put(world, "a-large", &Archived { body: "x".repeat(2 << 20), ..given_up(1) });
    put(world, "b-empty", &Archived { body: String::new(), ..given_up(2) });
    put(world, "c-never", &Archived { archived_at: Some("yesterday".into()), ..given_up(3) });
    let mut many = given_up(4);
    many.attributes.extend((0..20).map(|n| (format!("a{n}"), (&text("x")).into())));
    put(world, "d-many", &many);
    put(world, "e-future", &Archived { v: 2, ..given_up(5) });
    world.store.put_object(RESULTS, "archive/dlq/2026-11-22/f-deep.json", "[".repeat(100_000));
    world.store.put_object(RESULTS, "archive/dlq/2026-11-22/g-huge.json", vec![b' '; 9 << 20]);
    put(world, "h-well", &given_up(6));
    let (report, ears) = restore_all(&site).await;
    assert_eq!((report.tally.sent, report.tally.unreadable, report.ended), (1, 7, Ended::Complete));
    assert_eq!((ears.troubles().len(), archived(world).len(), sent(world).len()), (7, 7, 1), "{:?}", ears.troubles());
}

#[tokio::test(start_paused = true)]
async fn two_objects_of_one_id_that_say_different_things_are_two_messages() {
    let site = Site::new(2);
    put(&site.world, "a", &given_up(1));
    put(&site.world, "b", &Archived { body: "mended by hand".into(), ..given_up(1) });
    put(&site.world, "c", &given_up(1));
    let (report, _) = restore_all(&site).await;
    assert_eq!((report.tally.sent, report.tally.twice), (2, 1));
    assert!(archived(&site.world).is_empty() && sent(&site.world).contains_key("mended by hand"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_heard_among_letters_that_nobody_wants() {
    let site = Site::new(3);
    give_up_on(&site.world, 200).await;
    site.world.store.faults(|faults| faults.get.latency = (SECOND, SECOND));
    let (process, mut ears) = (Process::new(&site), Ears::default());
    let none = Selection { reason: Some("limit".into()), ..Selection::default() };
    let run = process.restore(&site.world, none);
    let stop = run.stop.clone();
    let asked = tokio::spawn(async move {
        sleep(3 * SECOND).await;
        stop.cancel();
    });
    let report = process.run(async move { run.run(&mut ears).await }).await.unwrap();
    asked.await.unwrap();
    assert!(report.ended == Ended::Interrupted && report.tally.looked_at < 100, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn folders_that_are_no_days_cost_one_look_each_and_are_no_days_of_a_listing() {
    let site = Site::new(4);
    let world = &site.world;
    give_up_on(world, 3).await;
    for n in 0..300 {
        world.store.put_object(RESULTS, &format!("archive/dlq/----------/{n}.json"), "{}");
        world.store.put_object(RESULTS, &format!("archive/dlq/2026-11-21x/{n}.json"), "{}");
        world.store.put_object(RESULTS, &format!("archive/dlq/2026-13-99/{n}.json"), "{}");
        world.store.put_object(RESULTS, &format!("archive/dlq/2026-11-22/{n}/deeper.json"), "{}");
    }
    let shelf = Shelf { store: Arc::new(world.store.clone()), bucket: RESULTS.into() };
    let before = world.store.calls().len();
    assert_eq!(shelf.keys_by_id(Source::Dlq, "letter-0001").await.unwrap().len(), 1);
    let asked = world.store.calls().len() - before;
    assert!(asked < 10, "{asked} calls");
    let listed: serde_json::Value =
        serde_json::from_str(&shelf.list(&Selection::default(), 10).await.unwrap().json).unwrap();
    assert_eq!(listed["days"], serde_json::json!({ "2026-11-22": 3 }));
}

#[tokio::test(start_paused = true)]
async fn of_many_letters_of_one_first_id_some_are_shown_and_it_is_said() {
    let site = Site::new(5);
    let note = note("first", 3);
    for n in 0..60 {
        archive(&site.world).keep(&letter(n, Some(&note)), Some(note.clone()), "denied", "403", None).await.unwrap();
    }
    let shelf = Shelf { store: Arc::new(site.world.store.clone()), bucket: RESULTS.into() };
    let answer = shelf.show("first", &|_| {}).await.unwrap();
    let shown: serde_json::Value = serde_json::from_str(&answer.json).unwrap();
    assert_eq!((shown["found"].as_array().unwrap().len(), &shown["more"], answer.code), (20, &true.into(), 0));
    assert!(answer.text.contains("there are more"), "{}", answer.text);
    let one = shelf.show("letter-0007", &|_| {}).await.unwrap();
    assert!(!one.text.contains("there are more") && one.json.contains(r#""more":false"#));
}
