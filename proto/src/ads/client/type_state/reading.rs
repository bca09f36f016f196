//! From the items of a response to names and verdicts, without changing anything.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::TypeState;
use crate::ads::client::cache::Cache;
use crate::ads::client::config::Decode;
use crate::ads::client::subscription::{Held, Subscription};
use crate::ads::client::update::Item;
use crate::codec::{Context, Decoded, Ignored, InvalidResource, Reason, Unnamed};
use crate::resource::Resource;
use crate::resource::name::canonical;
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
        cache: &Cache,
        reader: &Reader<'_>,
        problems: &mut Vec<String>,
    ) -> (BTreeMap<String, Read>, usize) {
        let mut all = BTreeMap::new();
        let mut nameless = 0;
        for (index, item) in items.into_iter().enumerate() {
            match self.read(item, cache, reader) {
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

    fn read(
        &self,
        mut item: Item,
        cache: &Cache,
        reader: &Reader<'_>,
    ) -> Result<(String, Read), Reason> {
        item.name = item.name.map(|name| canonical(&name).into_owned());
        let Some(any) = item.any else {
            return self.read_heartbeat(item.name, cache);
        };
        let known = match &item.name {
            Some(name) => cache.get(name).map(|subscription| (name, subscription)),
            None => cache.name_of(&any),
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
        let inner = canonical(&decoded.name);
        let name = outer.unwrap_or_else(|| inner.clone().into_owned());
        if name != inner {
            let reason = Reason::Rule(format!("is named {:?} inside", decoded.name));
            let invalid = self.invalid(&name, reason);
            return (name, Read::Bad(invalid, Some(copy(any))));
        }
        let read = match decoded.result {
            Ok(resource) => Read::Good(self.hold(any, version, resource), decoded.ignored),
            Err(invalid) => Read::Bad(invalid, Some(copy(any))),
        };
        (name, read)
    }

    /// Without a body it only refreshes the TTL, which gRPC ignores, of something held.
    fn read_heartbeat(
        &self,
        name: Option<String>,
        cache: &Cache,
    ) -> Result<(String, Read), Reason> {
        let name = name.ok_or(Reason::Missing)?;
        let is_held = cache.get(&name).is_none_or(|s| s.held.is_some());
        let read = if is_held {
            Read::Unchanged { version: None }
        } else {
            Read::Bad(self.invalid(&name, Reason::Missing), None)
        };
        Ok((name, read))
    }

    fn hold(&self, any: &Any, version: String, resource: Resource) -> Held {
        Held {
            raw: copy(any),
            server: self.server,
            version,
            resource,
        }
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

/// Copies the bytes: a slice would keep the whole response it came in alive.
fn copy(any: &Any) -> Any {
    Any {
        type_url: any.type_url.clone(),
        value: Bytes::copy_from_slice(&any.value),
    }
}
