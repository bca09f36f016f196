//! From the items of a response to names and verdicts, without changing anything.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use bytes::Bytes;

use super::TypeState;
use crate::ads::client::config::Decode;
use crate::ads::client::subscription::{Held, Subscription};
use crate::ads::client::update::Item;
use crate::codec::{Context, Decoded, Ignored, InvalidResource, Reason, Unnamed};
use crate::resource::Resource;
use crate::wire::Any;

/// What reading resources needs.
pub(in crate::ads::client) struct Reader<'a> {
    pub(in crate::ads::client) decode: Decode,
    pub(in crate::ads::client) context: &'a Context,
}

/// What became of one item.
pub(super) enum Read {
    /// The bytes that are held already, perhaps under a new version.
    Unchanged {
        version: Option<String>,
    },
    Good(Held, Vec<Ignored>),
    /// With the bytes, if there are any.
    Bad(InvalidResource, Option<Any>),
}

impl TypeState {
    /// Reads every item; what has no name becomes a problem and is counted.
    pub(super) fn read_all(
        &self,
        items: Vec<Item>,
        reader: &Reader<'_>,
        problems: &mut Vec<String>,
    ) -> (BTreeMap<String, Read>, usize) {
        let mut all = BTreeMap::new();
        let mut nameless = 0;
        for (index, item) in items.into_iter().enumerate() {
            match self.read(item, reader) {
                Ok((name, read)) => {
                    let duplicate = || self.invalid(&name, Reason::Duplicate(name.clone()));
                    let read = match all.get(&name) {
                        Some(_) => Read::Bad(duplicate(), None),
                        None => read,
                    };
                    all.insert(name, read);
                }
                Err(reason) => {
                    nameless += 1;
                    problems.push(Unnamed { index, reason }.to_string());
                }
            }
        }
        (all, nameless)
    }

    fn read(&self, item: Item, reader: &Reader<'_>) -> Result<(String, Read), Reason> {
        let Some(any) = item.any else {
            return self.read_heartbeat(item.name);
        };
        let known = match &item.name {
            Some(name) => self.names.get_key_value(name),
            None => self
                .by_content
                .get(&self.hasher.hash_one(&any))
                .and_then(|name| self.names.get_key_value(name)),
        };
        if let Some((
            name,
            Subscription {
                held: Some(held), ..
            },
        )) = known
            && held.raw == any
        {
            let version = Some(item.version);
            return Ok((name.clone(), Read::Unchanged { version }));
        }
        let decoded = match (reader.decode)(self.resource_type, &any, reader.context) {
            Ok(decoded) => decoded,
            Err(reason) => {
                let Some(name) = item.name else {
                    return Err(reason);
                };
                let invalid = self.invalid(&name, reason);
                return Ok((name, Read::Bad(invalid, Some(copy(&any)))));
            }
        };
        Ok(self.judge(item.name, item.version, &any, decoded))
    }

    fn judge(
        &self,
        outer: Option<String>,
        version: String,
        any: &Any,
        decoded: Decoded,
    ) -> (String, Read) {
        let name = outer.unwrap_or_else(|| decoded.name.clone());
        if name != decoded.name {
            let reason = Reason::Rule(format!("is named {:?} inside", decoded.name));
            let invalid = self.invalid(&name, reason);
            return (name, Read::Bad(invalid, Some(copy(any))));
        }
        let read = match decoded.result {
            Ok(resource) => Read::Good(hold(any, version, resource), decoded.ignored),
            Err(invalid) => Read::Bad(invalid, Some(copy(any))),
        };
        (name, read)
    }

    /// Without a body it only refreshes the TTL, which gRPC ignores, of something held.
    fn read_heartbeat(&self, name: Option<String>) -> Result<(String, Read), Reason> {
        let name = name.ok_or(Reason::Missing)?;
        let is_held = self.names.get(&name).is_none_or(|s| s.held.is_some());
        let read = if is_held {
            Read::Unchanged { version: None }
        } else {
            Read::Bad(self.invalid(&name, Reason::Missing), None)
        };
        Ok((name, read))
    }

    fn invalid(&self, name: &str, reason: Reason) -> InvalidResource {
        InvalidResource {
            resource_type: self.resource_type,
            name: name.to_owned(),
            path: String::new(),
            reason,
        }
    }
}

fn hold(any: &Any, version: String, resource: Resource) -> Held {
    Held {
        raw: copy(any),
        version,
        resource,
    }
}

/// Copies the bytes: a slice would keep the whole response it came in alive.
fn copy(any: &Any) -> Any {
    Any {
        type_url: any.type_url.clone(),
        value: Bytes::copy_from_slice(&any.value),
    }
}
