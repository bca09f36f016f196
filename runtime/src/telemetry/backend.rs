//! Where an attempt goes, as metrics label it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sidestep_proto::resource::Locality;

/// A cluster and a locality of it. Numbered, so that calls need not look at the names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub(super) id: u32,
    service: Box<str>,
    locality: Box<str>,
}

impl Backend {
    /// `grpc.lb.backend_service` (A89): the cluster's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// `grpc.lb.locality` (A78): `{region="…", zone="…", sub_zone="…"}`, or empty where no
    /// endpoint was picked or it has no locality.
    #[must_use]
    pub fn locality(&self) -> &str {
        &self.locality
    }
}

/// All there were. They are as many as the series that can be made of them, and as lasting.
#[derive(Debug, Default)]
pub(super) struct Backends(Mutex<HashMap<Names, Arc<Backend>>>);

/// Cluster and locality.
type Names = (Box<str>, Box<str>);

impl Backends {
    pub(super) fn get(&self, service: &str, locality: Option<&Locality>) -> Arc<Backend> {
        let key = (Box::from(service), text(locality));
        let mut known = super::lock(&self.0);
        // Never as many: each is a configured cluster and locality.
        let id = u32::try_from(known.len()).unwrap_or(u32::MAX);
        let backend = known.entry(key).or_insert_with_key(|(service, locality)| {
            Arc::new(Backend {
                id,
                service: service.clone(),
                locality: locality.clone(),
            })
        });
        Arc::clone(backend)
    }
}

fn text(locality: Option<&Locality>) -> Box<str> {
    match locality {
        Some(l) if *l != Locality::default() => format!(
            "{{region=\"{}\", zone=\"{}\", sub_zone=\"{}\"}}",
            l.region, l.zone, l.sub_zone
        )
        .into(),
        _ => Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_names_are_the_same_backend() {
        let backends = Backends::default();
        let here = Locality {
            region: "eu".into(),
            zone: "a".into(),
            sub_zone: String::new(),
        };
        let first = backends.get("greeter", Some(&here));
        assert_eq!(first.locality(), r#"{region="eu", zone="a", sub_zone=""}"#);
        assert!(Arc::ptr_eq(&first, &backends.get("greeter", Some(&here))));
        let nowhere = backends.get("greeter", Some(&Locality::default()));
        assert_eq!((nowhere.service(), nowhere.locality()), ("greeter", ""));
        assert!(Arc::ptr_eq(&nowhere, &backends.get("greeter", None)));
        assert_ne!(first.id, nowhere.id);
    }
}
