//! One contract for the ports, asked of the model (paused clock) and of LocalStack alike.
//!
//! Promises that what the simulations stand on is what a service does. Where LocalStack differs from SQS or S3
//! (see the notes in `queue` and `store`), the model alone is asked.

// All of this is test code, though clippy only sees the functions marked as tests as such.
#![allow(clippy::unwrap_used)]

mod queue;
mod store;

#[path = "../sim/mod.rs"]
mod sim;

/// Makes two tests of each function of the contract.
macro_rules! contract {
    ($bed:ident: $($promise:ident),* $(,)?) => {
        mod model {
            $(#[tokio::test(start_paused = true)]
            async fn $promise() {
                super::$promise(&super::$bed::of_the_model()).await;
            })*
        }

        mod local_stack {
            $(#[tokio::test]
            #[ignore = "needs the local stack: make test"]
            async fn $promise() {
                super::$promise(&super::$bed::of_the_local_stack().await).await;
            })*
        }
    };
}
pub(crate) use contract;

/// AWS as the environment names it, and never the real one: these tests create queues and buckets.
async fn local_aws() -> aws_config::SdkConfig {
    assert!(std::env::var_os("AWS_ENDPOINT_URL").is_some(), "AWS_ENDPOINT_URL must name the local stack");
    quittance::aws::load().await
}

/// Names of one test only: LocalStack cannot be reset.
fn unique(kind: &str) -> String {
    format!("{kind}-{}", uuid::Uuid::now_v7().simple())
}
