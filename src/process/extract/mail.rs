//! Mail (EML): its headers as metadata, its body as text, its attachments by name.
//!
//! Refuses to read attachments: they are files of their own, and a mail can hold a thousand.

use mail_parser::{Address, Message, MessageParser, MimeHeaders, PartType};

use super::read::{Bytes, Stop, Wanted};
use super::sink::{Doc, unify_breaks};
use super::{html, read};

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let Bytes { bytes, whole } = read::at_most(wanted.input, wanted.limits.max_whole_bytes)?;
    let message = MessageParser::default()
        .parse(&bytes)
        .filter(|message| !message.headers().is_empty())
        .ok_or_else(|| Stop::finding("no mail: it has no headers"))?;
    headers(&message, doc);
    for part in message.text_body.iter().filter_map(|id| message.parts.get(*id as usize)) {
        match &part.body {
            PartType::Text(text) => doc.text.push(&unify_breaks(text)),
            PartType::Html(page) => html::push(page, doc),
            PartType::Binary(_) | PartType::InlineBinary(_) | PartType::Message(_) | PartType::Multipart(_) => {}
        }
        doc.text.end_paragraph();
    }
    let names: Vec<String> = message.attachments().map(name).collect();
    doc.set_count("attachment_count", names.len());
    doc.set_list("attachments", names.iter().map(String::as_str));
    if !whole {
        doc.text.cut();
    }
    complaint(&message, &bytes, whole).map_or(Ok(()), |complaint| Err(Stop::finding(complaint)))
}

fn headers(message: &Message<'_>, doc: &mut Doc) {
    if let Some(subject) = message.subject() {
        doc.set_title(subject);
        doc.set("subject", subject);
    }
    for (name, address) in [("from", message.from()), ("to", message.to()), ("cc", message.cc())] {
        let people: Vec<String> = address.into_iter().flat_map(people).collect();
        doc.set_list(name, people.iter().map(String::as_str));
    }
    if let Some(date) = message.date() {
        doc.set("date", &date.to_rfc3339());
    }
    if let Some(id) = message.message_id() {
        doc.set("mail_message_id", id);
    }
}

fn people(address: &Address<'_>) -> Vec<String> {
    let person = |one: &mail_parser::Addr<'_>| match (&one.name, &one.address) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (Some(one), None) | (None, Some(one)) => one.to_string(),
        (None, None) => String::new(),
    };
    address.iter().map(person).collect()
}

/// An attached mail is named by its subject.
fn name(part: &mail_parser::MessagePart<'_>) -> String {
    let own = part.attachment_name().map(str::to_owned);
    let subject = || part.message().and_then(Message::subject).map(|subject| format!("{subject}.eml"));
    own.or_else(subject).unwrap_or_else(|| "unnamed".to_owned())
}

/// What is wrong with a mail that could be read all the same.
fn complaint(message: &Message<'_>, bytes: &[u8], whole: bool) -> Option<&'static str> {
    let content_type = message.content_type()?;
    let subtype = content_type.subtype().unwrap_or_default().to_ascii_lowercase();
    // S/MIME says both encrypted and signed with one type.
    let signed_only = content_type.attribute("smime-type").is_some_and(|own| own == "signed-data");
    if subtype == "encrypted" || (subtype.ends_with("pkcs7-mime") && !signed_only) {
        return Some("the mail is encrypted");
    }
    let boundary = content_type.attribute("boundary")?;
    let last = format!("--{boundary}--").into_bytes();
    let closed = bytes.windows(last.len()).any(|window| window == last);
    (whole && !closed).then_some("the mail ends before its last part does")
}
