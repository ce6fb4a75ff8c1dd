//! Who may come in: requests made to this machine by its address, and for what changes something, with the token.
//!
//! A page anywhere in the world can make a browser here ask this port; it must neither read keys (a name that was turned to
//! our address: DNS rebinding) nor pause a worker. Promises that such requests are refused by what browsers always say of
//! them, `Host` and `Origin`, and that a token is compared in the same time wherever it differs. Knows no gate.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use sha2::{Digest as _, Sha256};

use crate::config::Secret;

/// Why a request was turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// Asked for by a name, which may be anybody's.
    Name,
    /// Asked for by a page of somebody else's.
    Origin,
    /// There is no token.
    NoToken,
    /// Not this one.
    WrongToken,
}

impl Refused {
    pub(super) fn why(self) -> &'static str {
        match self {
            Refused::Name => "ask by address, or by localhost (through a tunnel: ssh -L 9464:127.0.0.1:9464 HOST)\n",
            Refused::Origin => "only the page of this worker may ask that\n",
            Refused::NoToken => "no token is set: ADMIN_TOKEN_FILE or ADMIN_TOKEN; fleet-wide: redrive pause\n",
            Refused::WrongToken => "not the token\n",
        }
    }
}

/// A look at what names keys.
pub(super) fn may_look(headers: &HeaderMap) -> Result<(), Refused> {
    let host = one(headers, &HOST).and_then(|host| host.to_str().ok()).ok_or(Refused::Name)?;
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_ours = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok();
    if is_ours { Ok(()) } else { Err(Refused::Name) }
}

/// Something that changes the worker.
pub(super) fn may_act(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Refused> {
    may_look(headers)?;
    if headers.contains_key(ORIGIN) {
        let page = one(headers, &ORIGIN).and_then(|origin| origin.to_str().ok()?.strip_prefix("http://"));
        let host = one(headers, &HOST).and_then(|host| host.to_str().ok());
        if page.is_none() || page != host {
            return Err(Refused::Origin);
        }
    }
    let token = token.ok_or(Refused::NoToken)?;
    let given = one(headers, &AUTHORIZATION).and_then(|given| given.as_bytes().strip_prefix(b"Bearer "));
    match given {
        Some(given) if same(given, token.expose().as_bytes()) => Ok(()),
        Some(_) | None => Err(Refused::WrongToken),
    }
}

/// A header that is there once: of two, who reads on might take the other.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a hyper::header::HeaderValue> {
    let mut all = headers.get_all(name).iter();
    let first = all.next();
    first.filter(|_| all.next().is_none())
}

/// Of hashes, all of them to the end: what it takes says nothing of where they differ, or how long the token is.
fn same(given: &[u8], token: &[u8]) -> bool {
    let (given, token) = (Sha256::digest(given), Sha256::digest(token));
    given.iter().zip(token.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn by_address_or_localhost_it_may_be_looked_at_and_by_no_other_name() {
        for (host, may) in [
            ("127.0.0.1:9464", true),
            ("127.0.0.1", true),
            ("[::1]:9464", true),
            ("[::1]", true),
            ("10.0.0.7:80", true),
            ("localhost:9464", true),
            ("LOCALHOST", true),
            ("evil.example:9464", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example:9464", false),
            ("[evil.example]:9464", false),
            ("", false),
            ("127.0.0.1:9464:evil", false),
        ] {
            assert_eq!(may_look(&headers(&[("host", host)])).is_ok(), may, "{host}");
        }
        assert_eq!(may_look(&headers(&[])), Err(Refused::Name));
        let two = headers(&[("host", "127.0.0.1"), ("host", "evil.example")]);
        assert_eq!(may_look(&two), Err(Refused::Name));
    }

    #[test]
    fn only_the_token_from_its_own_page_or_from_no_page_changes_anything() {
        let (host, token) = (("host", "127.0.0.1:9464"), Secret::from("0123456789abcdef".to_owned()));
        let bearer = ("authorization", "Bearer 0123456789abcdef");
        let cases = [
            (&[host, bearer][..], Ok(())),
            (&[host, bearer, ("origin", "http://127.0.0.1:9464")], Ok(())),
            (&[host, bearer, ("origin", "http://evil.example")], Err(Refused::Origin)),
            (&[host, bearer, ("origin", "null")], Err(Refused::Origin)),
            (&[host, bearer, ("origin", "http://127.0.0.1:9465")], Err(Refused::Origin)),
            (&[("host", "evil.example"), bearer], Err(Refused::Name)),
            (&[host], Err(Refused::WrongToken)),
            (&[host, ("authorization", "Bearer 0123456789abcdeX")], Err(Refused::WrongToken)),
            (&[host, ("authorization", "0123456789abcdef")], Err(Refused::WrongToken)),
        ];
        for (given, expected) in cases {
            let given: Vec<(&'static str, &str)> = given.to_vec();
            assert_eq!(may_act(&headers(&given), Some(&token)), expected, "{given:?}");
        }
        assert_eq!(may_act(&headers(&[host, bearer]), None), Err(Refused::NoToken));
        assert_eq!(may_act(&headers(&[host, bearer, bearer]), Some(&token)), Err(Refused::WrongToken));
    }
}
