//! URLs: of the queue, of OpenSearch, of AWS endpoints. Which may be spoken to, and how.
//!
//! Promises that no password travels in the clear or ends in a log (T7, T9): plain http goes to loopback addresses
//! only, a URL with a password in it is refused without being repeated, and metadata services are out of reach.
//! Judges hosts as the `url` crate reads them, so that `http://2852039166/` is 169.254.169.254 here, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::mistakes::{Wrong, wrong};
use super::values;

/// IMDS of EC2 over IPv6, which lies outside of fe80::/10.
const IMDS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The URL of a standard queue; `fifo` says why it must be one.
///
/// Its scheme is not judged: the SDK sends requests to its endpoint and the queue's URL as a parameter.
pub(super) fn queue(fifo: &'static str) -> impl FnOnce(&str) -> Result<String, Wrong> {
    move |text| {
        let form = "give the queue's URL, as `aws sqs get-queue-url --queue-name NAME` prints it";
        if text.starts_with("arn:") {
            return wrong(format!("{} is an ARN", shown(text)), form);
        }
        let url = web(text, form)?;
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or("");
        if name.is_empty() {
            return wrong(format!("{} names no queue", shown(text)), form);
        }
        if name.ends_with(".fifo") {
            return wrong(format!("{} is a FIFO queue: {fifo}", shown(text)), "use a standard queue");
        }
        Ok(text.to_owned())
    }
}

/// Whether two URLs are one, however they are written.
pub(super) fn same(left: &str, right: &str) -> bool {
    left == right || Url::parse(left).is_ok_and(|left| Url::parse(right).is_ok_and(|right| left == right))
}

/// Something that requests are sent to.
pub(super) fn endpoint(allow_http: bool) -> impl Fn(&str) -> Result<String, Wrong> {
    move |text| {
        let url = web(text, "give a URL like https://host:port")?;
        if url.query().is_some() || url.fragment().is_some() {
            return wrong(
                format!("{} has a query or a fragment", shown(text)),
                "give only scheme, host, port and path",
            );
        }
        if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
            return wrong(
                format!("{} is plain http to another machine: what is sent could be read on the way", shown(text)),
                "use https://, or ALLOW_HTTP=true (--allow-http) in a test",
            );
        }
        Ok(text.to_owned())
    }
}

/// Host names of AWS's own OpenSearch, which wants signed requests.
pub(super) fn is_aws_search(text: &str) -> bool {
    let host = Url::parse(text).ok().and_then(|url| url.host_str().map(str::to_ascii_lowercase)).unwrap_or_default();
    let host = host.trim_end_matches('.').trim_end_matches(".cn");
    host.ends_with(".es.amazonaws.com")
        || host.ends_with(".aoss.amazonaws.com")
        || (host.ends_with(".on.aws") && host.contains(".aos."))
}

/// An http or https URL that is safe to repeat in a log.
fn web(text: &str, form: &str) -> Result<Url, Wrong> {
    let shown = shown(text);
    let Ok(url) = Url::parse(text) else { return wrong(format!("{shown} is not a URL"), form) };
    if !matches!(url.scheme(), "http" | "https") {
        return wrong(format!("{shown} is neither https nor http"), form);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong(
            "the URL holds a user name or password, which would end up in logs",
            "take it out of the URL; for OpenSearch use OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD_FILE",
        );
    }
    if is_link_local(&url) {
        return wrong(
            format!("{shown} is a link-local address, where metadata services with credentials live"),
            "give the address of the service itself",
        );
    }
    Ok(url)
}

/// What was typed, fit for a log: whatever has an '@' may hold a password, even if it is no URL, and a query a token.
fn shown(text: &str) -> String {
    if text.contains('@') {
        return "what was given".to_owned();
    }
    values::quoted(text.split(['?', '#']).next().unwrap_or_default())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => plain(address).is_loopback(),
        None => false,
    }
}

fn is_link_local(url: &Url) -> bool {
    let judged = |address| match address {
        IpAddr::V4(v4) => Ipv4Addr::is_link_local(&v4),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == IMDS_V6,
    };
    match url.host() {
        Some(Host::Ipv4(address)) => judged(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => judged(plain(address)),
        Some(Host::Domain(_)) | None => false,
    }
}

/// `::ffff:169.254.169.254` is 169.254.169.254.
fn plain(address: Ipv6Addr) -> IpAddr {
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}
