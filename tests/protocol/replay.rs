//! A replayer: the order of calls of `src/index/replay.rs`.
//!
//! A marker is listed and read, then the record as it is now; that goes into the index under its own revision, and only
//! then the marker goes. Giving up before the index was asked changes nothing, so it is not a step of its own.

use crate::model::{Flaw, How, Model, Step};
use crate::world::{Call, Entry, ReplayAt, Replayer, World};

impl Model {
    pub fn of_replayer(&self, world: &World, replayer: usize, next: &mut Vec<(Step, World)>) {
        let me = world.replayers[replayer];
        if me.at == ReplayAt::Idle {
            // Any marker, not only the oldest: the listing is an old one when its last key's turn has come.
            for marker in world.markers.all() {
                let mut after = *world;
                after.replayers[replayer] = Replayer { at: ReplayAt::GetRecord, marker, ..Replayer::default() };
                next.push((Step::Picks { replayer, revision: marker.revision }, after));
            }
            return;
        }
        let mut push = |how, mut after: World, then| {
            after.replayers[replayer] = then;
            next.push((Step::Replays { replayer, at: me.at, how }, after));
        };
        let first = self.flaw == Some(Flaw::MarkerGoesFirst);
        let (call, well) = match me.at {
            ReplayAt::Idle => (Call::None, me),
            ReplayAt::GetRecord => {
                let entry = self.replayed(world, me.marker);
                let at = if first { ReplayAt::DeleteMarker } else { ReplayAt::Bulk };
                (Call::None, Replayer { at, entry, ..me })
            }
            ReplayAt::Bulk if first => (Call::Bulk(me.entry), Replayer::default()),
            ReplayAt::Bulk => {
                let marker = Entry { revision: me.marker.revision, ..Entry::default() };
                (Call::Bulk(me.entry), Replayer { at: ReplayAt::DeleteMarker, marker, entry: Entry::default() })
            }
            ReplayAt::DeleteMarker if first => {
                (Call::DeleteMarker(me.marker.revision), Replayer { at: ReplayAt::Bulk, ..me })
            }
            ReplayAt::DeleteMarker => (Call::DeleteMarker(me.marker.revision), Replayer::default()),
        };
        let mut after = *world;
        after.land(call, self.flaw);
        push(How::Well, after, well);
        if call == Call::None {
            return;
        }
        push(How::Stops, *world, Replayer::default());
        if let Some(in_flight) = self.in_flight(world, call) {
            push(How::CutOff, in_flight, Replayer::default());
            if me.at == ReplayAt::DeleteMarker {
                push(How::Unanswered, in_flight, me); // S3's client asks again
            }
        }
    }

    fn replayed(&self, world: &World, marker: Entry) -> Entry {
        let now = Entry { revision: world.record.revision, content: world.record.content };
        if self.flaw == Some(Flaw::ReplaysOldRevision) {
            marker
        } else if self.flaw == Some(Flaw::ReplaysOldText) {
            Entry { content: marker.content, ..now }
        } else {
            now
        }
    }
}
