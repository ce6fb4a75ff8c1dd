//! From receive to settlement with OpenSearch well, slow and dead: what the side path costs the main one.

use std::time::{Duration, Instant};

use crate::rate;
use crate::relay::{Fate, Relay};
use crate::search::endpoint;
use crate::waiting::LONG;
use crate::world::{World, text_files};

const FILES: usize = 600;
/// A slow one answers all it has in hand so often.
const SLOW: Duration = Duration::from_secs(2);

pub async fn measure() {
    println!("\n## Settlement, {FILES} small files, one worker of 20 messages in flight (LocalStack)\n");
    println!("| OpenSearch | p50, ms | p99, ms | longest, ms | messages/s | parked |\n|---|---|---|---|---|---|");
    for mood in ["healthy", "slow", "dead", "dead from the middle on"] {
        let world = World::new().await;
        let relay = Relay::before(&endpoint());
        let mut worker = world.launch().set("OPENSEARCH_ENDPOINT", relay.url()).start().await;
        match mood {
            "slow" => relay.rule(|_| Fate::HoldReply),
            "dead" => relay.rule(|_| Fate::Down),
            _ => {}
        }
        let files = text_files(FILES);
        let began = Instant::now();
        let all = async {
            world.put_all(&files).await;
            crate::waiting::eventually("all are settled", 4 * LONG, async || {
                let settled = worker.count(|line| line["event"] == "message_settled");
                if settled >= FILES / 2 && mood == "dead from the middle on" {
                    relay.rule(|_| Fate::Hold);
                }
                crate::waiting::holds(settled >= FILES, settled)
            })
            .await;
        };
        let breathing = async {
            loop {
                tokio::time::sleep(SLOW).await;
                if mood == "slow" {
                    relay.rule(|_| Fate::Pass);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    relay.rule(|_| Fate::HoldReply);
                }
            }
        };
        tokio::select! { () = all => {}, () = breathing => {} }
        let took = began.elapsed();
        let mut held: Vec<u64> =
            worker.facts("message_settled").iter().map(|line| line["held_ms"].as_u64().unwrap()).collect();
        let parked = worker.count(|line| line["event"] == "message_settled" && line["index"] == "parked");
        held.sort_unstable();
        let at = |share: f64| held[((held.len() - 1) as f64 * share) as usize];
        println!("| {mood} | {} | {} | {} | {:.0} | {parked} |", at(0.5), at(0.99), at(1.0), rate(held.len(), took));
        relay.release();
        worker.stop().await;
    }
}
