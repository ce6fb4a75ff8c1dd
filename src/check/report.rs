//! The findings for a person, for a script, and as an exit code.
//!
//! Promises one line per finding and one per fix, and that a warning never fails a deployment.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Finding, Verdict};

/// 0 when nothing failed, 1 otherwise (design §8).
pub fn exit_code(findings: &[Finding]) -> u8 {
    u8::from(count(findings, Verdict::Fail) > 0)
}

/// The same before a worker starts: a sick index keeps none from starting (P4).
pub fn exit_code_before_start(findings: &[Finding]) -> u8 {
    const SIDE_PATH: [&str; 3] = ["index", "mapping", "network_search"];
    let fails = |finding: &&Finding| finding.verdict == Verdict::Fail && !SIDE_PATH.contains(&finding.name);
    u8::from(findings.iter().any(|finding| fails(&finding)))
}

/// Lines for a terminal: verdict, name, evidence; the fix below.
pub fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut page = String::new();
    for Finding { name, verdict, evidence, fix } in findings {
        // Failures stand out without colour, which logs and pipes do not carry.
        let word = match verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
            Verdict::Skipped => "skip",
        };
        let _ = writeln!(page, "{word}  {name:width$}  {evidence}"); // writing to a String cannot fail
        if let Some(fix) = fix {
            let _ = writeln!(page, "      {:width$}  fix: {fix}", "");
        }
    }
    let [pass, warn, fail, skipped] =
        [Verdict::Pass, Verdict::Warn, Verdict::Fail, Verdict::Skipped].map(|verdict| count(findings, verdict));
    let _ = writeln!(page, "{pass} passed, {warn} warned, {fail} failed, {skipped} skipped");
    page
}

/// One JSON object on one line: `passed`, `findings`.
pub fn json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        passed: bool,
        findings: &'a [Finding],
    }
    // Strings and enums: there is nothing in a finding that JSON cannot hold.
    serde_json::to_string(&Report { passed: exit_code(findings) == 0, findings }).unwrap_or_default()
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::pass("queue", "there"),
            Finding::warn("retention", "4 d", "lengthen"),
            Finding::skipped("index", "SKIP_OPENSEARCH is set"),
        ]
    }

    #[test]
    fn a_report_is_aligned_and_a_fix_stands_below_its_finding() {
        let expected = "pass  queue      there\n\
                        WARN  retention  4 d\n                 fix: lengthen\n\
                        skip  index      SKIP_OPENSEARCH is set\n\
                        1 passed, 1 warned, 0 failed, 1 skipped\n";
        assert_eq!(text(&findings()), expected);
    }

    #[test]
    fn the_json_report_holds_every_finding() {
        let expected = r#"{"passed":true,"findings":[{"name":"queue","verdict":"pass","evidence":"there","fix":null},{"name":"retention","verdict":"warn","evidence":"4 d","fix":"lengthen"},{"name":"index","verdict":"skipped","evidence":"SKIP_OPENSEARCH is set","fix":null}]}"#;
        assert_eq!(json(&findings()), expected);
    }

    #[test]
    fn only_a_failure_fails() {
        assert_eq!(exit_code(&findings()), 0);
        let mut worse = findings();
        worse.push(Finding::fail("dlq", "not there", "create it"));
        assert_eq!(exit_code(&worse), 1);
        assert!(json(&worse).starts_with(r#"{"passed":false"#));
        assert_eq!(exit_code_before_start(&worse), 1);
        let index = [Finding::fail("index", "down", "wait"), Finding::fail("mapping", "other", "migrate")];
        assert_eq!((exit_code(&index), exit_code_before_start(&index)), (1, 0), "documents are parked");
    }

    #[test]
    fn a_finding_is_one_line_whatever_a_service_replies() {
        let finding = Finding::fail("queue", &"<html>\r\n\u{1b}[31m".repeat(200), "a\nb");
        assert_eq!(text(&[finding]).lines().count(), 3);
    }
}
