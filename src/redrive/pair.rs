//! Whether two queues belong together: by ARN, from what each says of the other.
//!
//! Pure. Promises that letters of one system are not poured into another, and not back into the queue they came from:
//! what no policy joins is refused, unless it is named (R5, R6, R14).

use crate::queue::{QueueFacts, RedriveAllow};

/// What the two queues and SQS say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// The queue that letters are sent back to.
    pub main: QueueFacts,
    /// The queue they are taken from.
    pub dlq: QueueFacts,
    /// Names of the queues whose letters go to the DLQ (`ListDeadLetterSourceQueues`); `None`: SQS does not say.
    pub sources: Option<Vec<String>>,
    /// Names of the queues whose letters go to the *main* queue; `None`: SQS does not say.
    pub sources_of_main: Option<Vec<String>>,
}

/// A pair that is not drained, and what would allow it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// A sentence.
    pub why: String,
    /// Naming the DLQ (`--allow-unpaired ARN`) makes it pass.
    pub can_be_allowed: bool,
}

impl Pair {
    /// Why it is refused; `allowed`: ARNs the operator has named.
    pub fn refusal(&self, allowed: &[String]) -> Option<Refusal> {
        let (main, dlq) = (&self.main.arn, &self.dlq.arn);
        if main == dlq {
            let why = format!("source and target are the same queue ({main}): its messages would go round in a circle");
            return Some(Refusal { why, can_be_allowed: false });
        }
        if allowed.contains(dlq) {
            return None;
        }
        let why = self.unpaired()?;
        Some(Refusal { why, can_be_allowed: true })
    }

    fn unpaired(&self) -> Option<String> {
        let (main, dlq) = (&self.main.arn, &self.dlq.arn);
        let ((here, name), (there, dlq_name)) = (place(main), place(dlq));
        if here != there {
            return Some(format!("{dlq} is of another region or account than {main}"));
        }
        match &self.main.dead_letter_arn {
            Some(arn) if arn == dlq => {}
            Some(arn) => return Some(format!("the redrive policy of {main} names another dead-letter queue: {arn}")),
            None => return Some(format!("{main} has no redrive policy that names {dlq}")),
        }
        match &self.dlq.redrive_allow {
            RedriveAllow::All => {}
            RedriveAllow::Nobody => return Some(format!("the redrive allow policy of {dlq} lets no queue use it")),
            RedriveAllow::These(arns) if arns.contains(main) => {}
            RedriveAllow::These(_) => return Some(format!("the redrive allow policy of {dlq} does not name {main}")),
        }
        if self.sources.as_ref().is_some_and(|sources| !sources.iter().any(|source| source == name)) {
            return Some(format!("SQS does not list {name} among the queues that use {dlq_name}"));
        }
        match self.sources_of_main.as_deref() {
            Some([first, ..]) => Some(format!("{main} is itself a dead-letter queue, of {first}")),
            Some([]) | None => None,
        }
    }

    /// ARNs of the queues that share the DLQ with the main queue, as far as SQS says; none where the operator has named it.
    pub fn others(&self, allowed: &[String]) -> Vec<String> {
        let (here, name) = place(&self.main.arn);
        let sources =
            self.sources.iter().flatten().filter(|source| *source != name && !allowed.contains(&self.dlq.arn));
        sources.map(|source| format!("{here}:{source}")).collect()
    }

    /// The one queue whose letters are taken, by ARN, where SQS does not say who shares the DLQ: a letter that names another
    /// is that one's. None where SQS says it, or where the operator has named the DLQ.
    pub fn only(&self, allowed: &[String]) -> Option<String> {
        (self.sources.is_none() && !allowed.contains(&self.dlq.arn)).then(|| self.main.arn.clone())
    }

    /// What is odd, and no reason to refuse (R15).
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let [first, ..] = self.others(&[]).as_slice() {
            warnings
                .push(format!("the dead-letter queue is that of {first} too: letters of another queue are put back"));
        }
        if self.sources.is_none() {
            warnings.push(
                "SQS does not say which queues share the dead-letter queue (sqs:ListDeadLetterSourceQueues): letters that \
                 name another queue are put back"
                    .to_owned(),
            );
        }
        if self.sources_of_main.is_none() {
            warnings.push(format!(
                "SQS does not say whether {} is itself a dead-letter queue (sqs:ListDeadLetterSourceQueues)",
                self.main.arn
            ));
        }
        if let (Some(next), times) = (&self.dlq.dead_letter_arn, self.dlq.max_receive_count.unwrap_or(0)) {
            warnings.push(format!(
                "the dead-letter queue has one of its own ({next}): a letter that is received {times} times moves on to it"
            ));
        }
        warnings
    }
}

/// Region and account; and the name.
fn place(arn: &str) -> (&str, &str) {
    arn.rsplit_once(':').unwrap_or((arn, arn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn(name: &str) -> String {
        format!("arn:aws:sqs:eu-west-1:111111111111:{name}")
    }

    fn pair() -> Pair {
        let main = QueueFacts { arn: arn("main"), dead_letter_arn: Some(arn("dlq")), ..QueueFacts::default() };
        let dlq = QueueFacts { arn: arn("dlq"), ..QueueFacts::default() };
        Pair { main, dlq, sources: Some(vec!["main".into()]), sources_of_main: Some(Vec::new()) }
    }

    #[test]
    fn only_queues_that_belong_together_are_joined() {
        let with = |change: &dyn Fn(&mut Pair)| {
            let mut pair = pair();
            change(&mut pair);
            pair
        };
        let table = [
            (pair(), None),
            (with(&|pair| pair.sources = None), None),
            (with(&|pair| pair.sources_of_main = None), None),
            (with(&|pair| pair.dlq.redrive_allow = RedriveAllow::These(vec![arn("x"), arn("main")])), None),
            (with(&|pair| pair.dlq.arn = arn("main")), Some("the same queue")),
            (with(&|pair| pair.main.dead_letter_arn = None), Some("no redrive policy")),
            (with(&|pair| pair.main.dead_letter_arn = Some(arn("other"))), Some("another dead-letter queue")),
            (with(&|pair| pair.dlq.redrive_allow = RedriveAllow::Nobody), Some("lets no queue")),
            (with(&|pair| pair.dlq.redrive_allow = RedriveAllow::These(vec![arn("x")])), Some("does not name")),
            (with(&|pair| pair.sources = Some(vec!["other".into()])), Some("does not list main")),
            (with(&|pair| pair.sources_of_main = Some(vec!["first".into()])), Some("itself a dead-letter queue")),
            (
                with(&|pair| pair.dlq.arn = "arn:aws:sqs:eu-west-1:222222222222:dlq".into()),
                Some("another region or account"),
            ),
            (
                with(&|pair| pair.dlq.arn = "arn:aws:sqs:us-east-1:111111111111:dlq".into()),
                Some("another region or account"),
            ),
        ];
        for (pair, expected) in table {
            let refusal = pair.refusal(&[]);
            let fits = match (&refusal, expected) {
                (None, None) => true,
                (Some(refusal), Some(words)) => refusal.why.contains(words),
                (Some(_), None) | (None, Some(_)) => false,
            };
            assert!(fits, "{expected:?}: {refusal:?}");
            // Naming the DLQ allows everything but a circle.
            let named = pair.refusal(&[arn("x"), pair.dlq.arn.clone()]);
            assert_eq!(named.is_some(), pair.main.arn == pair.dlq.arn, "{named:?}");
            assert_eq!(pair.refusal(&[arn("x")]), refusal, "another name allows nothing");
        }
    }

    #[test]
    fn r15_a_dead_letter_queue_that_has_one_of_its_own_is_told_and_drained_all_the_same() {
        let mut chain = pair();
        (chain.dlq.dead_letter_arn, chain.dlq.max_receive_count) = (Some(arn("last")), Some(7));
        let warnings = chain.warnings();
        assert_eq!(chain.refusal(&[]), None);
        assert!(
            matches!(&warnings[..], [one] if one.contains(&arn("last")) && one.contains("7 times")),
            "{warnings:?}"
        );
    }

    #[test]
    fn those_that_share_the_dead_letter_queue_are_known_by_their_arns() {
        let shared = Pair { sources: Some(vec!["b".into(), "main".into(), "c".into()]), ..pair() };
        assert_eq!(shared.refusal(&[]), None);
        assert_eq!(shared.others(&[]), [arn("b"), arn("c")]);
        assert!(shared.warnings().iter().any(|told| told.contains(&arn("b"))));
        assert_eq!(shared.others(&[arn("dlq")]), [] as [String; 0], "the operator has named it");
        assert_eq!((pair().others(&[]), pair().only(&[]), pair().warnings()), (Vec::new(), None, Vec::new()));
    }

    #[test]
    fn where_sqs_does_not_say_who_shares_it_only_letters_of_the_main_queue_are_meant() {
        let blind = Pair { sources: None, ..pair() };
        assert_eq!((blind.refusal(&[]), blind.others(&[])), (None, Vec::new()));
        assert_eq!(blind.only(&[]), Some(arn("main")));
        assert!(matches!(&blind.warnings()[..], [one] if one.contains("sqs:ListDeadLetterSourceQueues")));
        assert_eq!(blind.only(&[arn("dlq")]), None, "the operator has named it");
        let half = Pair { sources_of_main: None, ..pair() };
        assert!(matches!(&half.warnings()[..], [one] if one.contains("is itself a dead-letter queue")));
    }
}
