//! Batch entries that the service refuses: taken out of the request or not, and failed in the reply either way.
//!
//! Knows the three batches that the worker sends: DeleteMessageBatch, ChangeMessageVisibilityBatch, and `_bulk`.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use super::http::Whole;

/// Which entries, and how they are refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refuse {
    /// Positions in the batch; those that it does not have refuse nothing.
    pub positions: Vec<usize>,
    /// SQS: the code. `_bulk`: the error's type, with `status`.
    pub code: &'static str,
    pub status: u16,
    pub sender_fault: bool,
    /// The service carries them out all the same.
    pub passed_on: bool,
}

impl Refuse {
    fn hits(&self, position: usize) -> bool {
        self.positions.contains(&position)
    }

    /// The request as the service shall see it; `None` when nothing is left of it.
    pub fn request(&self, mut request: Whole) -> Option<Whole> {
        if self.passed_on {
            return Some(request);
        }
        let body = if request.start.contains("_bulk") {
            let documents = documents(&request).into_iter().enumerate();
            let kept: Vec<String> = documents.filter(|(at, _)| !self.hits(*at)).map(|(_, (_, lines))| lines).collect();
            (!kept.is_empty()).then(|| packed(&request, kept.concat().as_bytes()))?
        } else {
            let mut body: Value = serde_json::from_slice(&request.body).ok()?;
            let entries = body["Entries"].as_array_mut()?;
            let mut at = 0..;
            entries.retain(|_| !self.hits(at.next().unwrap_or_default()));
            if entries.is_empty() {
                return None;
            }
            body.to_string().into_bytes()
        };
        request.set_body(body);
        Some(request)
    }

    /// The reply that the worker gets: what the service said of the others, and our refusals in their places.
    pub fn reply(&self, request: &Whole, reply: Option<Whole>) -> Whole {
        let said: Value = reply.as_ref().and_then(|reply| serde_json::from_slice(&reply.body).ok()).unwrap_or_default();
        let body =
            if request.start.contains("_bulk") { self.items(request, &said) } else { self.entries(request, &said) };
        let mut whole = reply.unwrap_or_else(|| Whole {
            start: "HTTP/1.1 200 OK".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: Vec::new(),
        });
        // LocalStack sends a checksum of nothing; a real service of what it said.
        whole.set_body(body.to_string().into_bytes());
        whole
    }

    fn entries(&self, request: &Whole, said: &Value) -> Value {
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let none = Vec::new();
        let ids = asked["Entries"].as_array().unwrap_or(&none).iter().map(|entry| entry["Id"].clone());
        let refused: Vec<Value> = ids.enumerate().filter(|(at, _)| self.hits(*at)).map(|(_, id)| id).collect();
        let good = said["Successful"].as_array().unwrap_or(&none).iter();
        let successful: Vec<Value> = good.filter(|entry| !refused.contains(&entry["Id"])).cloned().collect();
        let mut failed = said["Failed"].as_array().cloned().unwrap_or_default();
        failed.extend(refused.into_iter().map(|id| {
            json!({ "Id": id, "Code": self.code, "SenderFault": self.sender_fault, "Message": "the fault proxy says so" })
        }));
        json!({ "Successful": successful, "Failed": failed })
    }

    fn items(&self, request: &Whole, said: &Value) -> Value {
        let mut good = said["items"].as_array().cloned().unwrap_or_default().into_iter();
        let mut items = Vec::new();
        for (at, (id, _)) in documents(request).into_iter().enumerate() {
            let said = if self.passed_on || !self.hits(at) { good.next() } else { None };
            items.push(if self.hits(at) {
                let error = json!({ "type": self.code, "reason": "the fault proxy says so" });
                json!({ "index": { "_index": "files-v1", "_id": id, "status": self.status, "error": error } })
            } else {
                said.unwrap_or_default()
            });
        }
        json!({ "took": 1, "errors": true, "items": items })
    }
}

/// The documents of a bulk request, whatever it is packed in: the id and the two lines of each.
fn documents(request: &Whole) -> Vec<(String, String)> {
    let mut text = String::new();
    if request.header("content-encoding") == Some("gzip") {
        flate2::read::GzDecoder::new(request.body.as_slice()).read_to_string(&mut text).unwrap();
    } else {
        text.push_str(&String::from_utf8_lossy(&request.body));
    }
    let lines: Vec<&str> = text.lines().collect();
    let id = |action: &str| serde_json::from_str::<Value>(action).unwrap()["index"]["_id"].as_str().unwrap().to_owned();
    lines.chunks(2).map(|pair| (id(pair[0]), pair.iter().map(|line| format!("{line}\n")).collect())).collect()
}

fn packed(request: &Whole, body: &[u8]) -> Vec<u8> {
    if request.header("content-encoding") != Some("gzip") {
        return body.to_vec();
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body).unwrap();
    gzip.finish().unwrap()
}
