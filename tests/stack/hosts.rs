//! The hosts: what they are started with, how they scale, how they end.

use std::collections::BTreeSet;
use std::process::Command;

use crate::metrics;
use crate::template::Template;

const UNIT: &str = include_str!("../../systemd/quittance-worker.service");

fn user_data(chosen: &[(&str, &str)]) -> String {
    let host = Template::with(chosen).properties("Host");
    host["LaunchTemplateData"]["UserData"].as_str().unwrap().to_owned()
}

/// What the script writes into a file.
fn written(script: &str, path: &str) -> String {
    let (_, rest) =
        script.split_once(&format!("cat > {path} <<'END'\n")).unwrap_or_else(|| panic!("{path} is not written"));
    rest.split_once("\nEND\n").unwrap().0.to_owned() + "\n"
}

#[test]
fn a_host_asks_for_tokens_encrypts_its_disk_and_takes_the_newest_image() {
    let host = Template::with(&[]).properties("Host")["LaunchTemplateData"].clone();
    let metadata = &host["MetadataOptions"];
    assert_eq!((&metadata["HttpTokens"], &metadata["HttpPutResponseHopLimit"]), (&"required".into(), &1.into()));
    assert_eq!(host["BlockDeviceMappings"][0]["Ebs"]["Encrypted"], true);
    let image = host["ImageId"].as_str().unwrap();
    assert!(image.starts_with("{{resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-"), "{image}");
}

#[test]
fn the_environment_that_is_written_is_one_that_a_worker_knows() {
    let known = include_str!("../../deploy/worker.env");
    for chosen in [vec![], vec![("SearchEndpoint", "https://search.example.com"), ("SourcePrefix", "in/")]] {
        let script = user_data(&[chosen.as_slice(), &[("SourceBucket", "incoming")]].concat());
        let lines = written(&script, "/etc/quittance/worker.env");
        let names: BTreeSet<&str> = lines.lines().map(|line| line.split_once('=').unwrap().0).collect();
        for name in &names {
            // METRICS_EMF comes with the metrics; what is not in the sample is a mistake.
            assert!(known.contains(&format!("#{name}=")) || *name == "METRICS_EMF", "{name}");
        }
        for needed in ["SQS_QUEUE_URL", "S3_BUCKET", "SOURCE_BUCKETS", "NAMESPACE", "METRICS_EMF"] {
            assert!(names.contains(needed), "{needed}");
        }
        let has = |line: &str| lines.lines().any(|other| other == line);
        assert!(
            has(if chosen.is_empty() { "SOURCE_BUCKETS=incoming" } else { "SOURCE_BUCKETS=incoming/in/" }),
            "{lines}"
        );
        let search =
            if chosen.is_empty() { "SKIP_OPENSEARCH=true" } else { "OPENSEARCH_ENDPOINT=https://search.example.com" };
        assert!(has(search), "{lines}");
    }
}

#[test]
fn the_profile_that_is_written_is_the_one_that_is_shipped() {
    let shipped = include_str!("../../deploy/aws-config");
    let shipped: String =
        shipped.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let shipped = shipped.replace("arn:aws:iam::ACCOUNT:role/quittance-redrive", "RedriveRole.Arn");
    let written = written(&user_data(&[]), "/etc/quittance/aws-config");
    assert_eq!(written, shipped.replace("REGION", "eu-central-1"));
}

#[test]
fn the_scripts_are_shell_and_fit_into_user_data() {
    let script = user_data(&[]);
    assert!(script.starts_with("#!/bin/bash\n") && script.contains("set -euo pipefail"));
    assert!(script.len() < 16_384, "{}", script.len()); // EC2's limit, before Base64
    for script in [script.clone(), written(&script, "/usr/local/sbin/quittance-drain")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        std::fs::write(&path, &script).unwrap();
        let parsed = Command::new("bash").arg("-n").arg(&path).output().unwrap();
        assert!(parsed.status.success() && parsed.stderr.is_empty(), "{parsed:?}");
    }
}

#[test]
fn the_journal_of_all_units_is_shipped_to_a_group_that_forgets() {
    let template = Template::with(&[]);
    let group = template.properties("JournalGroup");
    assert_eq!(group["RetentionInDays"], 90);
    let script = user_data(&[]);
    let agent = written(&script, "/opt/aws/amazon-cloudwatch-agent/etc/quittance.json");
    let agent: serde_json::Value = serde_json::from_str(&agent).unwrap();
    let file = &agent["logs"]["logs_collected"]["files"]["collect_list"][0];
    assert_eq!(file["log_group_name"], group["LogGroupName"]);
    let ship = written(&script, "/etc/systemd/system/quittance-ship.service");
    assert!(ship.contains(&format!("StandardOutput=append:{}\n", file["file_path"].as_str().unwrap())), "{ship}");
    // EMF is found in lines that are JSON and nothing else.
    assert!(ship.contains(" --output=cat "), "{ship}");
    let patterns: Vec<&str> =
        ship.split("--unit=").skip(1).map(|rest| rest.split_whitespace().next().unwrap()).collect();
    for unit in
        ["quittance-worker", "quittance-worker@1", "quittance-redrive", "quittance-reconcile", "quittance-report"]
    {
        assert!(
            patterns.iter().any(|pattern| unit.starts_with(pattern.trim_end_matches('*'))),
            "{unit} is not shipped"
        );
    }
}

#[test]
fn a_host_is_not_ended_before_its_worker_has_drained() {
    let template = Template::with(&[]);
    let hook = template.properties("Hosts")["LifecycleHookSpecificationList"][0].clone();
    let stop = UNIT.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap().parse::<u64>().unwrap();
    // Asked every 5 s, stopped, and 15 s for the last lines.
    assert!(hook["HeartbeatTimeout"].as_u64().unwrap() >= 5 + stop + 15, "{hook}");
    assert_eq!(hook["LifecycleTransition"], "autoscaling:EC2_INSTANCE_TERMINATING");
    let drain = written(&user_data(&[]), "/usr/local/sbin/quittance-drain");
    let name = hook["LifecycleHookName"].as_str().unwrap();
    assert!(drain.contains(&format!("--lifecycle-hook-name {name} ")) && drain.contains("systemctl stop"), "{drain}");
}

#[test]
fn hosts_follow_the_backlog_and_are_not_added_while_a_breaker_is_open() {
    let scaling = Template::with(&[("BacklogPerHost", "500")]).properties("Scaling");
    let target = &scaling["TargetTrackingConfiguration"];
    let metrics = target["CustomizedMetricSpecification"]["Metrics"].as_array().unwrap();
    for metric in metrics.iter().filter_map(|metric| metric.get("MetricStat")) {
        metrics::assert_emitted(&metric["Metric"], "Scaling");
    }
    let expression = |id: &str| metrics.iter().find(|metric| metric["Id"] == id).unwrap()["Expression"].clone();
    assert_eq!(expression("share"), "IF(hosts > 0, visible / hosts, visible)");
    // Never above the target while it is open, and only what is above the target adds hosts.
    assert_eq!(expression("backlog"), "IF(FILL(breaker, 0) > 0 AND share > 500, 500, share)");
    assert_eq!(target["TargetValue"], "500");
    let returned: Vec<_> =
        metrics.iter().filter(|metric| metric["ReturnData"] == true).map(|metric| &metric["Id"]).collect();
    assert_eq!(returned, ["backlog"]);
}
