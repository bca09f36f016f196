//! Resource names from templates.

use std::fmt::Write as _;

use crate::code::{self, Code};
use crate::resource::name::into_canonical;

/// Why a resource name could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The target names an authority that the bootstrap does not have.
    #[error("the bootstrap has no authority {0:?}")]
    UnknownAuthority(String),
    /// The bootstrap does not say how servers find their listener.
    #[error("the bootstrap has no server_listener_resource_name_template")]
    NoServerTemplate,
}

impl NameError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownAuthority(_) => code::UNKNOWN_AUTHORITY,
            Self::NoServerTemplate => code::NO_LISTENER_TEMPLATE,
        }
    }
}

/// Puts `text` in the place of each `%s`; percent-encoded in names of the new style.
pub(super) fn fill(template: &str, text: &str) -> String {
    if template.starts_with("xdstp:") {
        into_canonical(template.replace("%s", &percent_encode(text)))
    } else {
        template.replace("%s", text)
    }
}

/// Encodes everything that may not stand in one segment of a path.
pub(super) fn percent_encode_segment(text: &str) -> String {
    percent_encode(text).replace('/', "%2F")
}

/// Encodes everything that may not stand in the path of a URI (RFC 3986, section 3.3).
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(byte.into()),
            b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'/' => out.push(byte.into()),
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {
                out.push(byte.into());
            }
            // Writing to a string cannot fail.
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_style_names_are_encoded() {
        let cases = [
            ("%s", "a b%", "a b%"),
            (
                "grpc/server?xds.resource.listening_address=%s",
                "[::1]:80",
                "grpc/server?xds.resource.listening_address=[::1]:80",
            ),
            ("xdstp://a/L/%s", "[::1]:80", "xdstp://a/L/%5B::1%5D:80"),
            (
                "xdstp://a/L/%s",
                "svc/é %?#",
                "xdstp://a/L/svc/%C3%A9%20%25%3F%23",
            ),
            ("xdstp://a/%s/%s", "x", "xdstp://a/x/x"),
            ("xdstp://a/L/%s?b=1&a=2", "x", "xdstp://a/L/x?a=2&b=1"),
        ];
        for (template, text, expected) in cases {
            assert_eq!(fill(template, text), expected);
        }
    }
}
