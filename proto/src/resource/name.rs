//! Names of resources: plain ones, and `xdstp:` names (gRFC A47).

use std::borrow::Cow;

use super::ResourceType;

/// What stands at the beginning of a name of the new style.
const SCHEME: &str = "xdstp:";

/// A name of the new style, `xdstp://authority/type/id?key=value&…#directives`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStyleName<'a> {
    /// May be empty.
    pub authority: &'a str,
    /// `envoy.config.listener.v3.Listener`
    pub resource_type: &'a str,
    /// May have slashes.
    pub id: &'a str,
    /// Context parameters in the order of their keys; of the same key twice, the last one.
    pub parameters: Vec<(&'a str, &'a str)>,
}

/// Why a name of the new style is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not `xdstp://authority/type/id`.
    #[error("is not of the form xdstp://authority/type/id")]
    Form,
    /// It names another type than the one that is asked for.
    #[error("names the type {found:?}, but a {expected:?} is asked for")]
    Type {
        /// In the name.
        found: String,
        /// What is asked for.
        expected: String,
    },
}

impl<'a> NewStyleName<'a> {
    /// `None` for a name of the old style, which may be any text.
    ///
    /// # Errors
    /// It begins as a name of the new style does and is none.
    pub fn parse(name: &'a str) -> Result<Option<Self>, InvalidName> {
        let Some(rest) = name.strip_prefix(SCHEME) else {
            return Ok(None);
        };
        let rest = rest.strip_prefix("//").ok_or(InvalidName::Form)?;
        let (rest, _directives) = rest.split_once('#').unwrap_or((rest, ""));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = path.split_once('/').ok_or(InvalidName::Form)?;
        let (resource_type, id) = path.split_once('/').ok_or(InvalidName::Form)?;
        if resource_type.is_empty() {
            return Err(InvalidName::Form);
        }
        Ok(Some(Self {
            authority,
            resource_type,
            id,
            parameters: parameters(query),
        }))
    }
}

fn parameters(query: &str) -> Vec<(&str, &str)> {
    let mut sorted: Vec<(&str, &str)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match sorted.binary_search_by(|(other, _)| (*other).cmp(key)) {
            Ok(at) => sorted[at].1 = value,
            Err(at) => sorted.insert(at, (key, value)),
        }
    }
    sorted
}

/// The one spelling of a name: of the new style, context parameters are sorted and directives are
/// left out. Any other text, also a wrong name, is what it is.
#[must_use]
pub fn canonical(name: &str) -> Cow<'_, str> {
    let Ok(Some(parsed)) = NewStyleName::parse(name) else {
        return Cow::Borrowed(name);
    };
    let NewStyleName {
        authority,
        resource_type,
        id,
        parameters,
    } = parsed;
    let mut text = format!("{SCHEME}//{authority}/{resource_type}/{id}");
    for (index, (key, value)) in parameters.iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.push_str(value);
    }
    if text == name {
        return Cow::Borrowed(name);
    }
    Cow::Owned(text)
}

/// [`canonical`] for a text that one owns.
pub(crate) fn into_canonical(name: String) -> String {
    match canonical(&name) {
        Cow::Owned(canonical) => canonical,
        Cow::Borrowed(_) => name,
    }
}

/// The authority that answers for a name of this type; `None` for a name of the old style.
///
/// # Errors
/// It begins as a name of the new style does and is none, or is one of another type.
pub fn authority(resource_type: ResourceType, name: &str) -> Result<Option<&str>, InvalidName> {
    let Some(parsed) = NewStyleName::parse(name)? else {
        return Ok(None);
    };
    let url = resource_type.type_url();
    let expected = url.rsplit('/').next().unwrap_or(url);
    if parsed.resource_type != expected {
        return Err(InvalidName::Type {
            found: parsed.resource_type.to_owned(),
            expected: expected.to_owned(),
        });
    }
    Ok(Some(parsed.authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let cases = [
            ("plain", "plain"),
            ("a?z=1&b=2", "a?z=1&b=2"),
            ("xdstp://a/T/x", "xdstp://a/T/x"),
            ("xdstp://a/T/x/y?", "xdstp://a/T/x/y"),
            ("xdstp://a/T/x?b=1&a=2", "xdstp://a/T/x?a=2&b=1"),
            ("xdstp://a/T/x?a=2&b=1", "xdstp://a/T/x?a=2&b=1"),
            ("xdstp://a/T/x?a=1&a=2", "xdstp://a/T/x?a=2"),
            ("xdstp:///T/x?a", "xdstp:///T/x?a="),
            ("xdstp://a/T/x?b=1&a=2#alt=y", "xdstp://a/T/x?a=2&b=1"),
            ("xdstp://a/", "xdstp://a/"),
            ("xdstp:a", "xdstp:a"),
        ];
        for (name, expected) in cases {
            assert_eq!(canonical(name), expected);
            assert_eq!(canonical(expected), expected, "it is one already");
        }
    }

    #[test]
    fn the_authority_is_that_of_a_name_of_the_right_type() {
        let listener = ResourceType::Listener;
        let url = "envoy.config.listener.v3.Listener";
        assert_eq!(authority(listener, "x"), Ok(None));
        let name = format!("xdstp://traffic.example/{url}/x/y?a=b");
        assert_eq!(authority(listener, &name), Ok(Some("traffic.example")));
        assert_eq!(
            authority(listener, &format!("xdstp:///{url}/")),
            Ok(Some(""))
        );
        for bad in [
            "xdstp:x",
            "xdstp://a",
            "xdstp://a/T",
            "xdstp://a//x",
            "xdstp://?a/T/x",
        ] {
            assert_eq!(authority(listener, bad), Err(InvalidName::Form), "{bad}");
        }
        let wrong = authority(ResourceType::Cluster, &name);
        assert!(matches!(wrong, Err(InvalidName::Type { .. })), "{wrong:?}");
    }
}
