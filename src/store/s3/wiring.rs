//! The wiring port on S3. As `store::s3`, of which it is a part, it names the SDK.

use async_trait::async_trait;
use aws_sdk_s3::types::{Event, ExpirationStatus, FilterRuleName, LifecycleRule, NotificationConfigurationFilter};

use super::{S3Store, fault, judge};
use crate::aws::Fault;
use crate::store::StoreError;
use crate::store::wiring::{Expiration, Notification, Notifications, Wiring};

#[async_trait]
impl Wiring for S3Store {
    async fn notifications(&self, bucket: &str) -> Result<Notifications, StoreError> {
        let request = self.client.get_bucket_notification_configuration().bucket(bucket);
        let told = request.send().await.map_err(|error| judge(fault(&error)))?;
        let queues = told.queue_configurations.unwrap_or_default().into_iter();
        let topics = told.topic_configurations.unwrap_or_default().into_iter();
        let functions = told.lambda_function_configurations.unwrap_or_default().into_iter();
        let all = queues
            .map(|one| notification(one.queue_arn, &one.events, one.filter.as_ref()))
            .chain(topics.map(|one| notification(one.topic_arn, &one.events, one.filter.as_ref())))
            .chain(functions.map(|one| notification(one.lambda_function_arn, &one.events, one.filter.as_ref())))
            .collect();
        Ok(Notifications { all, event_bridge: told.event_bridge_configuration.is_some() })
    }

    async fn expirations(&self, bucket: &str) -> Result<Vec<Expiration>, StoreError> {
        match self.client.get_bucket_lifecycle_configuration().bucket(bucket).send().await {
            Ok(told) => Ok(told.rules.unwrap_or_default().into_iter().filter_map(expiration).collect()),
            Err(error) => match fault(&error) {
                Fault::Answered { code: Some(code), .. } if code == "NoSuchLifecycleConfiguration" => Ok(Vec::new()),
                other => Err(judge(other)),
            },
        }
    }
}

fn notification(target: String, events: &[Event], filter: Option<&NotificationConfigurationFilter>) -> Notification {
    let rules = filter.and_then(|filter| filter.key.as_ref()?.filter_rules.as_deref()).unwrap_or_default();
    let of = |wanted: FilterRuleName| {
        let found = rules.iter().find(|rule| rule.name.as_ref() == Some(&wanted));
        found.and_then(|rule| rule.value.clone()).unwrap_or_default()
    };
    let events = events.iter().map(|event| event.as_str().to_owned()).collect();
    Notification { target, events, prefix: of(FilterRuleName::Prefix), suffix: of(FilterRuleName::Suffix) }
}

fn expiration(rule: LifecycleRule) -> Option<Expiration> {
    // A rule that only tidies up delete markers deletes nothing that is there.
    let deletes = rule.expiration.as_ref().is_some_and(|when| when.days.is_some() || when.date.is_some());
    if rule.status != ExpirationStatus::Enabled || !deletes {
        return None;
    }
    let within = rule.filter.as_ref().and_then(|filter| {
        let both = filter.and.as_ref().and_then(|and| and.prefix.clone());
        filter.prefix.clone().or(both)
    });
    #[allow(deprecated, reason = "rules of before 2016 have their prefix here, and S3 still obeys them")]
    let prefix = within.or(rule.prefix).unwrap_or_default();
    Some(Expiration { rule: rule.id.unwrap_or_default(), prefix })
}
