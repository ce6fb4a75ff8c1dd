//! The model index under the contract: what keeps it honest. It has no mapping, so a refusal must be announced.

use async_trait::async_trait;
use quittance::index::Search;
use quittance::index::catalogue::Catalogue;
use quittance::index::provenance::Provenance;
use quittance::index::succession::Succession;
use quittance::message::DocumentId;
use serde_json::Value;

use super::sim::faults::Ticks;
use super::sim::search::ModelSearch;
use super::{Bench, Block};

pub struct ModelBench {
    index: ModelSearch,
    next: ModelSearch,
    missing: ModelSearch,
}

impl ModelBench {
    pub async fn new() -> Self {
        let missing = ModelSearch::new(2, Ticks::default());
        missing.faults(|faults| faults.no_alias = true);
        let index = ModelSearch::new(1, Ticks::default());
        Self { next: index.next(), index, missing }
    }
}

#[async_trait]
impl Bench for ModelBench {
    fn search(&self) -> &dyn Search {
        &self.index
    }

    fn without_alias(&self) -> &dyn Search {
        &self.missing
    }

    fn catalogue(&self) -> &dyn Catalogue {
        &self.index
    }

    fn catalogue_without_alias(&self) -> &dyn Catalogue {
        &self.missing
    }

    fn provenance(&self) -> &dyn Provenance {
        &self.index
    }

    fn succession(&self) -> &dyn Succession {
        &self.index
    }

    fn next(&self) -> &dyn Search {
        &self.next
    }

    fn next_catalogue(&self) -> &dyn Catalogue {
        &self.next
    }

    async fn stored(&self, id: &DocumentId) -> Option<(u64, Value)> {
        self.index.document(id).map(|document| (document.revision, document.source))
    }

    async fn shown(&self) -> Vec<DocumentId> {
        let documents = self.index.documents().into_iter();
        documents.filter(|(_, document)| document.source["deleted"] != true).map(|(id, _)| id).collect()
    }

    fn will_be_refused(&self, id: &DocumentId) {
        self.index.faults(|faults| {
            faults.refuse.insert(id.clone(), "mapper_parsing_exception".into());
        });
    }

    async fn block(&self, _: Block, on: bool) {
        self.index.faults(|faults| {
            faults.item_systemic = if on { 1.0 } else { 0.0 };
            faults.probe.down = on;
        });
    }

    async fn something_has_the_missing_name(&self) -> bool {
        !self.missing.documents().is_empty()
    }
}
