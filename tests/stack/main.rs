//! What is deployed, as test input: `deploy/stack.yaml` against the design, the policies beside it and the metrics there
//! are, and the dashboards. That CloudFormation takes its data plane is shown in `tests/worker/stack.rs`; the rest is
//! held by these tests alone (LocalStack without a licence knows neither alarms in metric math nor groups of hosts).

// All of this is test code, though clippy only sees the functions marked as tests as such.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod alarms;
mod data_plane;
mod grafana;
mod hosts;
mod metrics;
mod roles;
mod template;
mod yaml;
