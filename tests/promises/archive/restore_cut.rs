//! Restores that are killed at any call, or whose calls fail, lose nothing and send nothing for ever (P9).

use super::*;
use crate::sim::{Cut, Faults};

/// Killed before and after each of its calls, and run again.
#[tokio::test(start_paused = true)]
async fn a_restore_killed_anywhere_and_run_again_loses_nothing_and_sends_nothing_three_times() {
    const LETTERS: usize = 23;
    for cut in [Cut::Before, Cut::After] {
        let mut killed = 0;
        for number in 0.. {
            let site = Site::new(number as u64);
            give_up_on(&site.world, LETTERS).await;
            let (process, mut ears) = (Process::new(&site), Ears::default());
            process.wires.cut_at(move |asking| (asking.number == number).then_some(cut));
            let run = process.restore(&site.world, Selection::default());
            if process.run(async move { run.run(&mut ears).await }).await.is_some() {
                break;
            }
            killed += 1;
            let before = sent(&site.world);
            let missing: Vec<usize> = (0..LETTERS)
                .filter(|n| !before.contains_key(&letter(*n, None).body))
                .filter(|n| !archived(&site.world).iter().any(|key| key.contains(&format!("letter-{n:04}"))))
                .collect();
            assert_eq!(missing, [0; 0], "{cut:?} {number}: neither in the queue nor in the archive");
            let (report, ears) = restore_all(&site).await;
            assert_eq!((report.ended, ears.troubles()), (Ended::Complete, vec![]), "{cut:?} {number}");
            let sent = sent(&site.world);
            assert_eq!((sent.len(), archived(&site.world).len()), (LETTERS, 0), "{cut:?} {number}");
            assert!(sent.values().all(|times| *times <= 2), "{cut:?} {number}: {sent:?}");
            let again = sent.values().filter(|times| **times == 2).count();
            assert!(again <= 10, "{cut:?} {number}: one batch at most");
        }
        assert!(killed > 3 + LETTERS, "{cut:?}: {killed}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_forgotten_and_lost_entries_are_sent_until_they_are_acknowledged() {
    for seed in 0..30 {
        let site = Site::new(seed);
        give_up_on(&site.world, 64).await;
        site.world.queue.faults(|faults| {
            faults.refuse_entry = 0.3;
            faults.forget_entry = 0.1;
            faults.send = Faults { fail_before: 0.1, lose_reply: 0.1, ..Faults::default() };
        });
        site.world
            .store
            .faults(|faults| faults.delete = Faults { fail_before: 0.2, lose_reply: 0.2, ..Faults::default() });
        for run in 0.. {
            assert!(run < 40, "seed {seed}: it never ends");
            let (report, _) = restore_all(&site).await;
            for n in 0..64 {
                let there = archived(&site.world).iter().any(|key| key.contains(&format!("letter-{n:04}")));
                assert!(there || sent(&site.world).contains_key(&letter(n, None).body), "seed {seed}: {n} is lost");
            }
            if report.ended == Ended::Complete && report.tally.is_well() {
                break;
            }
        }
        assert_eq!((sent(&site.world).len(), archived(&site.world).len()), (64, 0), "seed {seed}");
    }
}
