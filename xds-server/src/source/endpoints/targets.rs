//! `targets: FILE|URL`: the JSON of Prometheus' `file_sd` and `http_sd`:
//! `[{"targets": ["10.0.0.1:50051"], "labels": {"zone": "a", "version": "v1", "weight": "2"}}]`.
//!
//! The labels `zone`, `version` and `weight` are understood, others are for others. A target is
//! `IP:PORT`, `NAME:PORT` (all addresses of the name) or `unix:/path`. The list is taken whole or
//! not at all.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use http::Uri;
use serde::Deserialize;
use serde_json::Value;
use sidestep_proto::resource::{Address, Labels};
use tokio::time::Instant;

use super::dns::{self, Names};
use super::{EndpointSource, Kind, Look, LookError, LookOptions, Misspelt, http as client, normal};
use crate::compile::ResolvedEndpoint;
use crate::source::DirectoryWatch;

pub(super) const KIND: Kind = Kind {
    key: "targets",
    about: "a file or http:// URL with targets as in Prometheus' file_sd and http_sd",
    tells_versions: true,
    read,
    open: |locator, options| Box::new(Targets::new(locator, options)),
    peek,
};

/// A broken file must stay broken this long before that is said: it may be half written.
const SETTLE_WRONG: std::time::Duration = std::time::Duration::from_millis(50);

/// Names that are resolved at the same time.
const AT_ONCE: usize = 16;

/// Where targets are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    File(PathBuf),
    Http(Uri),
}

fn read(written: &str, mesh_file: &Path) -> Result<String, Misspelt> {
    const FORM: &str = "write the path of a file, or a URL as in `http://registry:8080/targets`";
    let misspelt = |message: String| Misspelt {
        message,
        help: FORM,
    };
    match location(written).map_err(misspelt)? {
        Location::Http(_) => Ok(written.to_owned()),
        Location::File(path) => {
            let base = mesh_file.parent().unwrap_or_else(|| Path::new(""));
            Ok(base.join(path).display().to_string())
        }
    }
}

fn location(written: &str) -> Result<Location, String> {
    let Some((scheme, _)) = written.split_once("://") else {
        return Ok(Location::File(PathBuf::from(written)));
    };
    if scheme == "https" {
        return Err("targets over https are not supported yet".to_owned());
    }
    if scheme != "http" {
        return Err(format!("{written:?} is neither a file nor an http:// URL"));
    }
    let uri: Uri = written
        .parse()
        .map_err(|error| format!("{written:?} is not a URL: {error}"))?;
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    let port = port.filter(|port| !port.ends_with(']'));
    if port.is_some() && uri.port_u16().is_none_or(|port| port == 0) {
        return Err(format!("{written:?} has no valid port"));
    }
    let host = uri.host().unwrap_or_default();
    if authority.contains('@') || host.is_empty() {
        return Err(format!("{written:?} is not a URL of a host"));
    }
    Ok(Location::Http(uri))
}

/// Files can be looked at without the network; names in them are not resolved then.
fn peek(locator: &str) -> Option<Look> {
    let Ok(Location::File(path)) = location(locator) else {
        return None;
    };
    let read = read_file(&path).and_then(|text| parse(&text, locator));
    Some(read.and_then(|targets| normal(targets.resolved)))
}

fn read_file(path: &Path) -> Result<Bytes, LookError> {
    let read = std::fs::read(path).map_err(|error| LookError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(read.into())
}

/// An entry of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
}

/// What a list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Parsed {
    /// Targets that are addresses.
    resolved: Vec<ResolvedEndpoint>,
    /// Targets that are names, each with what it lacks of an endpoint.
    named: Vec<(String, u16, ResolvedEndpoint)>,
}

/// Reads a list. Pure.
fn parse(text: &[u8], origin: &str) -> Result<Parsed, LookError> {
    let groups: Vec<Group> =
        serde_json::from_slice(text).map_err(|error| LookError::NotTargets {
            origin: origin.to_owned(),
            reason: error.to_string(),
        })?;
    let mut parsed = Parsed::default();
    let mut seen: HashMap<&str, &Group> = HashMap::new();
    for (index, group) in groups.iter().enumerate() {
        let fault = |field: String, reason: String| LookError::BadTarget {
            origin: origin.to_owned(),
            group: index,
            field,
            reason,
        };
        let label = |name: &str| {
            text_label(group, name).map_err(|reason| fault(format!("labels.{name}"), reason))
        };
        let (zone, version) = (label("zone")?, label("version")?);
        let weight = weight(group).map_err(|reason| fault("labels.weight".to_owned(), reason))?;
        for (at, written) in group.targets.iter().enumerate() {
            let fault = |reason: String| fault(format!("targets[{at}]"), reason);
            if let Some(first) = seen.insert(written, group)
                && first.labels != group.labels
            {
                return Err(fault(format!(
                    "{written:?} is there twice, with other labels"
                )));
            }
            let mut endpoint = ResolvedEndpoint {
                priority: 0,
                zone: zone.clone(),
                address: Address::Unix(String::new()),
                version: version.clone(),
                labels: Labels::default(),
                weight,
            };
            match target(written).map_err(fault)? {
                Target::Address(address) => {
                    endpoint.address = address;
                    parsed.resolved.push(endpoint);
                }
                Target::Name(name, port) => parsed.named.push((name, port, endpoint)),
            }
        }
    }
    Ok(parsed)
}

enum Target {
    Address(Address),
    Name(String, u16),
}

fn target(written: &str) -> Result<Target, String> {
    if let Some(path) = written.strip_prefix("unix:") {
        if path.starts_with('/') {
            return Ok(Target::Address(Address::Unix(path.to_owned())));
        }
        return Err("the path of a Unix socket must be absolute".to_owned());
    }
    if let Ok(address) = written.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err("port 0 is not a port to connect to".to_owned());
        }
        return Ok(Target::Address(Address::Tcp(address)));
    }
    let parts = written.rsplit_once(':');
    let parts = parts.map(|(name, port)| (name, port.parse().unwrap_or(0)));
    match parts {
        Some((name, port)) if port != 0 && dns::check_name(name).is_ok() => {
            Ok(Target::Name(name.to_owned(), port))
        }
        _ => Err(format!(
            "{written:?} is neither IP:PORT nor NAME:PORT nor unix:/path"
        )),
    }
}

fn text_label(group: &Group, name: &str) -> Result<Option<String>, String> {
    match group.labels.get(name) {
        None => Ok(None),
        // Prometheus takes an empty label for an absent one.
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("expected a text, found {other}")),
    }
}

/// Labels are texts in Prometheus; a number is understood as well.
fn weight(group: &Group) -> Result<u32, String> {
    let number = match group.labels.get("weight") {
        None => return Ok(1),
        Some(Value::String(text)) if text.is_empty() => return Ok(1),
        Some(Value::String(text)) => text.parse().ok(),
        Some(Value::Number(number)) => number.as_u64().and_then(|n| n.try_into().ok()),
        Some(_) => None,
    };
    number
        .filter(|weight| *weight > 0)
        .ok_or_else(|| format!("expected a whole number from 1 to {}", u32::MAX))
}

/// One list that is followed.
struct Targets {
    location: Location,
    origin: String,
    options: LookOptions,
    names: Names,
    watch: DirectoryWatch,
    /// What was read last, and what it said.
    known: Option<(Bytes, Parsed)>,
    /// Where the file was when it was read last, how long and how old.
    stamp: Option<(PathBuf, u64, SystemTime)>,
    failures: u32,
    /// When to read next at the latest; `None`: at once.
    due: Option<Instant>,
}

impl Targets {
    fn new(locator: &str, options: &LookOptions) -> Self {
        Self {
            location: location(locator).unwrap_or_else(|_| Location::File(locator.into())),
            origin: locator.to_owned(),
            options: options.clone(),
            names: Names::new(options),
            watch: DirectoryWatch::new(),
            known: None,
            stamp: None,
            failures: 0,
            due: None,
        }
    }

    async fn look(&mut self) -> Look {
        if let Some(due) = self.due {
            match &self.location {
                Location::Http(_) => tokio::time::sleep_until(due).await,
                Location::File(path) => {
                    let path = path.clone();
                    self.stirred(&path, due).await;
                }
            }
        }
        let patience = self.options.patience;
        let read = tokio::time::timeout(patience, self.fetch()).await;
        let list = read.unwrap_or(Err(LookError::TooSlow { after: patience }));
        let pause = match &list {
            Ok(_) => {
                self.failures = 0;
                self.options.poll
            }
            Err(_) => {
                self.failures = self.failures.saturating_add(1);
                self.names.forget();
                self.options.poll.min(self.options.pause(self.failures))
            }
        };
        self.due = Some(Instant::now() + pause);
        list
    }

    /// Waits until the file may have changed, or it is time to look in any case.
    async fn stirred(&self, path: &Path, due: Instant) {
        loop {
            let reported = tokio::time::timeout_at(due, self.watch.changed()).await;
            let moved = stamp(path) != self.stamp;
            if reported.unwrap_or(true) || moved {
                return;
            }
        }
    }

    async fn fetch(&mut self) -> Look {
        let parsed = match self.location.clone() {
            Location::Http(uri) => {
                let text = client::get(&self.origin, &uri).await?;
                self.parsed(text)?
            }
            Location::File(path) => match self.read(&path) {
                Ok(parsed) => parsed,
                Err(_) => {
                    tokio::time::sleep(SETTLE_WRONG).await;
                    self.read(&path)?
                }
            },
        };
        let mut endpoints = parsed.resolved;
        endpoints.extend(self.resolve(parsed.named).await?);
        normal(endpoints)
    }

    fn read(&mut self, path: &Path) -> Result<Parsed, LookError> {
        self.stamp = stamp(path);
        let real = self.stamp.as_ref().map(|(real, ..)| real.as_path());
        let directories = std::iter::once(path).chain(real).map(parent);
        self.watch.set(directories.collect());
        // Watched first, read second: no change can fall in between.
        let text = read_file(path)?;
        self.parsed(text)
    }

    fn parsed(&mut self, text: Bytes) -> Result<Parsed, LookError> {
        if let Some((known, parsed)) = &self.known
            && *known == text
        {
            return Ok(parsed.clone());
        }
        let parsed = parse(&text, &self.origin)?;
        self.known = Some((text, parsed.clone()));
        Ok(parsed)
    }

    /// The endpoints behind targets that are names. A name that cannot be resolved fails the list:
    /// half of it would shift all calls to the other half.
    async fn resolve(&mut self, named: Vec<(String, u16, ResolvedEndpoint)>) -> Look {
        if named.is_empty() {
            return Ok(Vec::new());
        }
        let resolver = &self.names.resolver()?;
        let asked = stream::iter(named.into_iter().map(|(name, port, endpoint)| async move {
            let (found, _) = dns::addresses(resolver, &name).await?;
            if found.is_empty() {
                let reason = "it has no address".to_owned();
                return Err(LookError::Lookup { name, reason });
            }
            let at = |ip: IpAddr| ResolvedEndpoint {
                address: Address::Tcp(SocketAddr::new(ip, port)),
                ..endpoint.clone()
            };
            Ok(found.into_iter().map(at).collect::<Vec<_>>())
        }));
        let found: Vec<Vec<_>> = asked.buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }
}

impl EndpointSource for Targets {
    fn next(&mut self) -> BoxFuture<'_, Look> {
        self.look().boxed()
    }
}

/// Tells, without reading, whether a file may have changed.
fn stamp(path: &Path) -> Option<(PathBuf, u64, SystemTime)> {
    let real = std::fs::canonicalize(path).ok()?;
    let metadata = std::fs::metadata(&real).ok()?;
    Some((real, metadata.len(), metadata.modified().ok()?))
}

fn parent(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or_else(|| Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests;
