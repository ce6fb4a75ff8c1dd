//! AWS credentials, kept between requests: the client asks its provider for every single one.
//!
//! Promises that the provider is asked once until shortly before expiry, that a provider which fails does not
//! take away credentials that still hold, and that what the domain refused is asked for anew. Knows no request.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, Result, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

/// Renewed this long before expiry: longer than any request, and the metadata service has time to recover.
const AHEAD: Duration = Duration::from_secs(5 * 60);
/// Credentials without an expiry are read again after this, as the SDK does (a profile may have been edited).
const UNDATED: Duration = Duration::from_secs(15 * 60);
/// Pause between attempts to renew credentials that still hold.
const AGAIN: Duration = Duration::from_secs(10);

/// A provider that remembers; its clones share what it remembers.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    provider: SharedCredentialsProvider,
    // tokio's, and held while asking: a hundred requests at expiry are one question.
    held: Arc<Mutex<Option<Held>>>,
}

#[derive(Debug)]
struct Held {
    credentials: Credentials,
    renew_at: SystemTime,
}

impl Remembered {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, held: Arc::default() }
    }

    /// The domain refused them: ask again next time.
    pub(super) async fn forget(&self) {
        *self.held.lock().await = None;
    }

    async fn credentials(&self) -> Result {
        let mut held = self.held.lock().await;
        // Expiry is a date, so this is the one place here where the wall clock is right.
        let now = SystemTime::now();
        if let Some(held) = held.as_ref().filter(|held| now < held.renew_at) {
            return Ok(held.credentials.clone());
        }
        match self.provider.provide_credentials().await {
            Ok(credentials) => {
                let renew_at = renewal(now, credentials.expiry());
                *held = Some(Held { credentials: credentials.clone(), renew_at });
                Ok(credentials)
            }
            Err(error) => match held.as_mut() {
                Some(old) if old.credentials.expiry().is_none_or(|expiry| now < expiry) => {
                    old.renew_at = now + AGAIN;
                    Ok(old.credentials.clone())
                }
                Some(_) | None => Err(error),
            },
        }
    }
}

impl ProvideCredentials for Remembered {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

fn renewal(now: SystemTime, expiry: Option<SystemTime>) -> SystemTime {
    let Some(expiry) = expiry else { return now + UNDATED };
    let left = expiry.duration_since(now).unwrap_or_default();
    // Credentials that never live longer than AHEAD would otherwise be asked for with every request.
    expiry - AHEAD.min(left / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::provider::error::CredentialsError;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers with credentials that live for so long, and fails from the given question on.
    #[derive(Debug)]
    struct Scripted {
        asked: Arc<AtomicUsize>,
        lives: Option<Duration>,
        fails_from: usize,
    }

    impl ProvideCredentials for Scripted {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let question = self.asked.fetch_add(1, Ordering::SeqCst);
            future::ProvideCredentials::ready(if question < self.fails_from {
                let expiry = self.lives.map(|lives| SystemTime::now() + lives);
                Ok(Credentials::new(format!("key{question}"), "secret", None, expiry, "test"))
            } else {
                Err(CredentialsError::provider_error("metadata service is down"))
            })
        }
    }

    fn remembered(lives: Option<Duration>, fails_from: usize) -> (Remembered, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let provider = Scripted { asked: Arc::clone(&asked), lives, fails_from };
        (Remembered::new(SharedCredentialsProvider::new(provider)), asked)
    }

    /// As if its time to renew had come.
    async fn ripen(remembered: &Remembered) {
        if let Some(held) = remembered.held.lock().await.as_mut() {
            held.renew_at = SystemTime::UNIX_EPOCH;
        }
    }

    #[tokio::test]
    async fn a_hundred_requests_ask_the_provider_once() {
        for lives in [None, Some(Duration::from_secs(3600)), Some(Duration::from_secs(60))] {
            let (credentials, asked) = remembered(lives, usize::MAX);
            for _ in 0..100 {
                credentials.provide_credentials().await.unwrap();
            }
            assert_eq!(asked.load(Ordering::SeqCst), 1, "{lives:?}");
        }
    }

    #[tokio::test]
    async fn credentials_are_renewed_before_they_expire() {
        let now = SystemTime::now();
        assert_eq!(renewal(now, Some(now + Duration::from_secs(3600))), now + Duration::from_secs(3300));
        assert_eq!(renewal(now, Some(now + Duration::from_secs(60))), now + Duration::from_secs(45));
        let (credentials, _) = remembered(Some(Duration::from_secs(3600)), usize::MAX);
        credentials.provide_credentials().await.unwrap();
        ripen(&credentials).await;
        assert_eq!(credentials.provide_credentials().await.unwrap().access_key_id(), "key1");
    }

    #[tokio::test]
    async fn a_failing_provider_does_not_take_away_credentials_that_still_hold() {
        let (credentials, asked) = remembered(Some(Duration::from_secs(3600)), 1);
        for _ in 0..3 {
            assert_eq!(credentials.provide_credentials().await.unwrap().access_key_id(), "key0");
            ripen(&credentials).await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        let (expired, _) = remembered(Some(Duration::ZERO), 1);
        expired.provide_credentials().await.unwrap();
        assert!(expired.provide_credentials().await.is_err(), "expired ones are not handed out");
    }

    #[tokio::test]
    async fn what_the_domain_refused_is_asked_for_anew() {
        let (credentials, _) = remembered(None, usize::MAX);
        credentials.provide_credentials().await.unwrap();
        credentials.forget().await;
        assert_eq!(credentials.provide_credentials().await.unwrap().access_key_id(), "key1");
    }
}
