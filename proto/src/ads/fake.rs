//! Small stand-ins for tests: resources that read `name=content`, and a view one can edit.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{Entry, Missing, View};
use crate::codec::{Context, Decoded, Ignored, InvalidResource, Reason};
use crate::resource::{
    Cluster, Discovery, DropCategory, EndpointAssignment, HttpConnectionManager, Listener,
    ListenerKind, PerMillion, Resource, ResourceType, RouteConfiguration, RouteSource, VirtualHost,
};
use crate::wire::Any;

/// Content that breaks a rule.
pub(super) const BAD: &str = "bad";
/// Content with a field that is not honoured.
pub(super) const ODD: &str = "odd";

pub(super) fn any(t: ResourceType, text: &str) -> Any {
    Any {
        type_url: t.type_url().to_owned(),
        value: Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// Reads `name=content`.
pub(super) fn decode(t: ResourceType, any: &Any, _: &Context) -> Result<Decoded, Reason> {
    if any.type_url != t.type_url() {
        return Err(Reason::Unsupported(any.type_url.clone()));
    }
    let text = std::str::from_utf8(&any.value).map_err(|_| Reason::Missing)?;
    let (name, content) = text
        .split_once('=')
        .ok_or_else(|| Reason::Undecodable(text.to_owned()))?;
    let result = if content.starts_with(BAD) {
        Err(InvalidResource {
            resource_type: t,
            name: name.to_owned(),
            path: "content".to_owned(),
            reason: Reason::Rule(format!("is {content}")),
        })
    } else {
        Ok(resource(t, name, content))
    };
    let note = Ignored {
        path: "content".to_owned(),
        note: "odd",
    };
    Ok(Decoded {
        name: name.to_owned(),
        result,
        ignored: if content == ODD {
            vec![note]
        } else {
            Vec::new()
        },
    })
}

pub(super) fn resource(t: ResourceType, name: &str, content: &str) -> Resource {
    let (name, content) = (name.to_owned(), content.to_owned());
    match t {
        ResourceType::Cluster => Resource::Cluster(Arc::new(Cluster::new(
            name,
            Discovery::Eds {
                service_name: content,
            },
        ))),
        ResourceType::EndpointAssignment => {
            Resource::EndpointAssignment(Arc::new(EndpointAssignment {
                cluster: name,
                localities: Vec::new(),
                drops: vec![DropCategory {
                    category: content,
                    share: PerMillion::ALL,
                }],
            }))
        }
        ResourceType::Listener => Resource::Listener(Arc::new(Listener {
            name,
            kind: ListenerKind::Api(HttpConnectionManager {
                routes: RouteSource::Named(content),
                max_stream_duration: None,
                filters: Vec::new(),
            }),
        })),
        ResourceType::RouteConfiguration => {
            Resource::RouteConfiguration(Arc::new(RouteConfiguration {
                name,
                virtual_hosts: vec![VirtualHost {
                    name: content,
                    domains: Vec::new(),
                    routes: Vec::new(),
                }],
            }))
        }
    }
}

/// An editable view: type URL and name to entry.
#[derive(Debug, Default)]
pub(super) struct World {
    revision: u64,
    entries: BTreeMap<String, BTreeMap<String, Arc<Entry>>>,
    /// Says nothing about what is missing, and believes no version.
    pub(super) is_bare: bool,
}

impl World {
    pub(super) fn put(&mut self, t: ResourceType, name: &str, content: &str) {
        self.put_url(t.type_url(), name, content);
    }

    pub(super) fn put_url(&mut self, type_url: &str, name: &str, content: &str) {
        let any = Any {
            type_url: type_url.to_owned(),
            value: format!("{name}={content}").into(),
        };
        self.put_any(name, content, &any);
    }

    pub(super) fn put_any(&mut self, name: &str, version: &str, any: &Any) {
        self.revision += 1;
        let entry = Entry {
            name: name.to_owned(),
            version: version.to_owned(),
            resource: any.encode_to_vec().into(),
        };
        let of_type = self.entries.entry(any.type_url.clone()).or_default();
        of_type.insert(name.to_owned(), Arc::new(entry));
    }

    pub(super) fn remove(&mut self, t: ResourceType, name: &str) {
        self.revision += 1;
        if let Some(of_type) = self.entries.get_mut(t.type_url()) {
            of_type.remove(name);
        }
    }

    /// The content under this name.
    pub(super) fn content(&self, t: ResourceType, name: &str) -> Option<&str> {
        Some(&self.entry(t.type_url(), name)?.version)
    }
}

impl View for World {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn entry(&self, t: &str, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(t)?.get(name)
    }

    fn entries(&self, t: &str) -> Box<dyn Iterator<Item = &Arc<Entry>> + '_> {
        Box::new(self.entries.get(t).into_iter().flat_map(BTreeMap::values))
    }

    fn missing(&self, _: &str, name: &str, _: bool) -> Option<Missing> {
        (!self.is_bare).then(|| Missing {
            code: 5,
            message: format!("no {name}"),
        })
    }

    fn trusts_versions(&self) -> bool {
        !self.is_bare
    }
}
