//! The words in which the services refuse: status, code and body as each of them sends them.
//!
//! Sources: the error tables of the SQS and S3 API references, "Common errors" of both; OpenSearch's replies as a real
//! server gives them (the stack's notes). The status is not enough to tell them apart, and is not always the same.

use super::http::Whole;

/// An answer of the proxy's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn plain(status: u16, kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type", kind.to_owned())], body: body.into() }
    }

    /// A captive portal, a load balancer, somebody else's server.
    pub fn html(status: u16) -> Self {
        Self::plain(status, "text/html", "<html><body><h1>Please sign in</h1></body></html>")
    }

    /// As a reply to a request of this method: one to a HEAD has a length and no body.
    pub fn reply_to(&self, method: &str) -> Whole {
        let mut whole = Whole {
            start: format!("HTTP/1.1 {} {}", self.status, if self.status < 300 { "OK" } else { "Refused" }),
            headers: self.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            body: Vec::new(),
        };
        whole.set_body(self.body.clone());
        if method == "HEAD" {
            whole.body.clear();
        }
        whole
    }
}

/// SQS: JSON with the shape's name; some codes travel under their older name in a header.
pub fn sqs(status: u16, code: &str) -> Answer {
    let (shape, older) = match code {
        "QueueDoesNotExist" => ("com.amazonaws.sqs#QueueDoesNotExist", Some("AWS.SimpleQueueService.NonExistentQueue")),
        "RequestThrottled" => ("com.amazonaws.sqs#RequestThrottled", Some("RequestThrottled")),
        "KmsDisabled" => ("com.amazonaws.sqs#KmsDisabled", Some("KMS.DisabledException")),
        "KmsAccessDenied" => ("com.amazonaws.sqs#KmsAccessDenied", Some("KMS.AccessDeniedException")),
        other => (other, None),
    };
    let body = serde_json::json!({ "__type": shape, "message": "the fault proxy says so" }).to_string();
    let mut answer = Answer::plain(status, "application/x-amz-json-1.0", body);
    answer.headers.push(("x-amzn-requestid", "c0ffee00-0000-4000-8000-000000000000".into()));
    if let Some(older) = older {
        answer.headers.push(("x-amzn-query-error", format!("{older};Sender")));
    }
    answer
}

/// S3: XML.
pub fn s3(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>the fault proxy says so</Message>\
         <RequestId>4442587FB7D0A2F9</RequestId><HostId>proxy</HostId></Error>"
    );
    Answer::plain(status, "application/xml", body)
}

/// OpenSearch: JSON with a type; a cluster block and a missing permission are both 403.
pub fn search(status: u16, kind: &str, reason: &str) -> Answer {
    let cause = serde_json::json!({ "type": kind, "reason": reason });
    let error = serde_json::json!({ "root_cause": [cause], "type": kind, "reason": reason });
    Answer::plain(status, "application/json", serde_json::json!({ "error": error, "status": status }).to_string())
}

pub fn cluster_block() -> Answer {
    let reason = "index [files-v1] blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];";
    search(403, "cluster_block_exception", reason)
}
