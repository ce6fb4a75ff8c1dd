//! The trace of a trial: every call with its stamps and its answer, every effect and every line, in one order.

use tokio::time::Instant;

use super::super::faults::{Call, Stamp};
use super::super::story::Story;
use super::super::{Effect, QueueAnswer, QueueAsk, World};

/// Calls of all workers.
pub fn calls(world: &World) -> usize {
    world.queue.asked() + world.dead_letters.asked() + world.store.asked() + world.search.asked()
}

pub fn of(story: &Story, began: Instant) -> Vec<String> {
    let mut events: Vec<(Stamp, String)> = Vec::new();
    let world = story.world;
    let time = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
    let mut add = |name: &str, calls: Vec<Words>| {
        for (who, ask, asked, took_effect, answered) in calls {
            events.push((asked, format!("{who} asks {name}: {ask}")));
            events.extend(took_effect.map(|at| (at, format!("  {name} acts on #{}", asked.order))));
            events.extend(answered.map(|(at, answer)| (at, format!("  {name} answers #{}: {answer}", asked.order))));
        }
    };
    add("queue", world.queue.calls().into_iter().map(queue_words).collect());
    add("dlq", world.dead_letters.calls().into_iter().map(queue_words).collect());
    add("store", world.store.calls().into_iter().map(words).collect());
    add("search", world.search.calls().into_iter().map(words).collect());
    for (name, queue) in [("queue", &world.queue), ("dlq", &world.dead_letters)] {
        let told = |effect: &Effect| match effect {
            Effect::Delivered { id, handle, count, until } => {
                format!("delivered {id} x{count} as {} until {:.3}", handle.0, time(*until))
            }
            Effect::Hidden { id, handle, until } => format!("hidden {id} as {} until {:.3}", handle.0, time(*until)),
            Effect::Deleted { id, handle } => format!("deleted {id} as {}", handle.0),
            Effect::Arrived(_) | Effect::MovedToDeadLetters(_) | Effect::Expired(_) => format!("{effect:?}"),
        };
        events.extend(queue.effects().iter().map(|(at, effect)| (*at, format!("    {name}: {}", told(effect)))));
    }
    for worker in story.workers {
        let who = &worker.who;
        events.push((worker.started, format!("{who} starts: {:?}", worker.setup)));
        events.extend(worker.asked_to_stop.map(|at| (at, format!("{who} is asked to stop"))));
        for (from, until) in &worker.frozen {
            events.push((*from, format!("{who} freezes")));
            events.push((*until, format!("{who} thaws")));
        }
        if let super::Ended::Crashed(at) = worker.ended {
            events.push((at, format!("{who} dies")));
        }
        let line = |line: &super::Line| (line.stamp, format!("{who} logs {} {}", line.event, line.fields));
        events.extend(worker.lines.iter().map(line));
    }
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(at, what)| format!("{:>6} {:>11.3}  {what}", at.order, time(at.at))).collect()
}

type Words = (String, String, Stamp, Option<Stamp>, Option<(Stamp, String)>);

/// With the handles, which are secret elsewhere.
fn queue_words(call: Call<QueueAsk, QueueAnswer>) -> Words {
    let ask = match &call.ask {
        QueueAsk::Delete(handles) => {
            let handles: Vec<&str> = handles.iter().map(|handle| handle.0.as_str()).collect();
            format!("Delete {handles:?}")
        }
        QueueAsk::Change(entries) => {
            let entries: Vec<_> = entries.iter().map(|(handle, time)| (handle.0.as_str(), time)).collect();
            format!("Change {entries:?}")
        }
        QueueAsk::Receive { .. } | QueueAsk::Send(_) | QueueAsk::SendBatch(_) | QueueAsk::Facts => {
            format!("{:?}", call.ask)
        }
    };
    let answered = call.answered.map(|(at, answer)| match answer {
        QueueAnswer::Received(messages) => {
            let messages: Vec<_> =
                messages.iter().map(|message| (&message.id.0, message.receive_count, &message.handle.0)).collect();
            (at, format!("{messages:?}"))
        }
        other => (at, format!("{other:?}")),
    });
    (call.who.to_string(), ask, call.asked, call.took_effect, answered)
}

fn words<Ask: std::fmt::Debug, Answer: std::fmt::Debug>(call: Call<Ask, Answer>) -> Words {
    let answered = call.answered.map(|(at, answer)| (at, format!("{answer:?}")));
    (call.who.to_string(), format!("{:?}", call.ask), call.asked, call.took_effect, answered)
}
