//! `dns: NAME:PORT`: every address of a name, or every target of an SRV record
//! (`dns: _service._tcp.NAME`), resolved here and sent as EDS.
//!
//! Addresses have no zone and no version. An SRV target's priority becomes the EDS priority, its
//! weight that of each of its addresses. The answer counts for its TTL.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use sidestep_proto::resource::{Address, Labels};
use tokio::time::Instant;

use super::{EndpointSource, Kind, Look, LookError, LookOptions, Misspelt, normal};
use crate::compile::ResolvedEndpoint;

pub(super) const KIND: Kind = Kind {
    key: "dns",
    about: "`NAME:PORT`, or `_service._tcp.NAME` for SRV records; resolved by the server",
    tells_versions: false,
    read,
    open: |locator, options| Box::new(Dns::new(locator, options)),
    peek: |_| None,
};

const FORM: &str = "write `NAME:PORT`, or `_service._tcp.NAME` for SRV records";

/// Targets of an SRV record that are resolved at the same time.
const AT_ONCE: usize = 16;

fn read(written: &str, _: &Path) -> Result<String, Misspelt> {
    parse(written).map(|_| written.to_owned())
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    /// A and AAAA; the port is ours to add.
    Addresses(String, u16),
    /// SRV.
    Services(String),
}

fn parse(written: &str) -> Result<Question, Misspelt> {
    let misspelt = |message: String| Misspelt {
        message,
        help: FORM,
    };
    if written.starts_with('_') {
        if written.contains(':') {
            return Err(misspelt(format!(
                "{written:?} has a port, but SRV records tell their own"
            )));
        }
        let mut labels = written.split('.');
        let second = labels.nth(1).unwrap_or_default();
        if !second.starts_with('_') || labels.next().is_none_or(str::is_empty) {
            return Err(misspelt(format!(
                "{written:?} is not the name of an SRV record"
            )));
        }
        check_name(written).map_err(misspelt)?;
        return Ok(Question::Services(written.to_owned()));
    }
    if written.parse::<SocketAddr>().is_ok() {
        return Err(Misspelt {
            message: format!("{written:?} is an address, not a name"),
            help: "write it under `static:`",
        });
    }
    let Some((name, port)) = written.rsplit_once(':') else {
        return Err(misspelt(format!("{written:?} has no port")));
    };
    check_name(name).map_err(misspelt)?;
    match port.parse::<u16>() {
        Ok(port) if port != 0 => Ok(Question::Addresses(name.to_owned(), port)),
        _ => Err(misspelt(format!("{port:?} is not a port from 1 to 65535"))),
    }
}

/// The length limits of RFC 1035, and the characters that host names and services are made of.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let label = |l: &str| (1..=63).contains(&l.len()) && l.chars().all(valid);
    let hyphens = |l: &str| l.starts_with('-') || l.ends_with('-');
    if bare.len() > 253 || !bare.split('.').all(|l| label(l) && !hyphens(l)) {
        return Err(format!("{name:?} cannot be a DNS name"));
    }
    Ok(())
}

/// Asks name servers for addresses.
pub(super) struct Names {
    server: Option<SocketAddr>,
    /// Made when first needed, and again after a failure: the system's configuration may have
    /// changed.
    resolver: Option<TokioResolver>,
}

impl Names {
    pub(super) fn new(options: &LookOptions) -> Self {
        Self {
            server: options.name_server,
            resolver: None,
        }
    }

    /// The resolver; cheap to clone.
    pub(super) fn resolver(&mut self) -> Result<TokioResolver, LookError> {
        if let Some(resolver) = &self.resolver {
            return Ok(resolver.clone());
        }
        let made = self.make().map_err(|error| LookError::NoNameServer {
            reason: error.to_string(),
        })?;
        Ok(self.resolver.insert(made).clone())
    }

    /// Reads the system's configuration again before the next question.
    pub(super) fn forget(&mut self) {
        self.resolver = None;
    }

    fn make(&self) -> Result<TokioResolver, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match self.server {
            None => Resolver::builder(provider)?,
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                Resolver::builder_with_config(config, provider)
            }
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Answers count for their TTL by our own clock.
        options.cache_size = 0;
        builder.build()
    }
}

/// All addresses of a name, and for how long they count. None: the name exists, but has no address.
pub(super) async fn addresses(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<IpAddr>, Duration), LookError> {
    match resolver.lookup_ip(name).await {
        Ok(found) => {
            let records = found.as_lookup().answers().iter();
            let ttl = records.map(|record| record.ttl).min().unwrap_or(0);
            Ok((found.iter().collect(), Duration::from_secs(ttl.into())))
        }
        Err(error) => none_or(name, &error).map(|()| (Vec::new(), Duration::ZERO)),
    }
}

/// A name without such records is no failure.
fn none_or(name: &str, error: &NetError) -> Result<(), LookError> {
    let name = name.to_owned();
    if error.is_nx_domain() {
        return Err(LookError::NoSuchName { name });
    }
    if error.is_no_records_found() {
        return Ok(());
    }
    let reason = error.to_string();
    Err(LookError::Lookup { name, reason })
}

/// One name that is followed.
struct Dns {
    question: Question,
    names: Names,
    options: LookOptions,
    failures: u32,
    /// When to ask next; `None`: at once.
    due: Option<Instant>,
}

impl Dns {
    fn new(locator: &str, options: &LookOptions) -> Self {
        Self {
            question: parse(locator).unwrap_or_else(|_| Question::Services(locator.to_owned())),
            names: Names::new(options),
            options: options.clone(),
            failures: 0,
            due: None,
        }
    }

    async fn look(&mut self) -> Look {
        if let Some(due) = self.due {
            tokio::time::sleep_until(due).await;
        }
        let patience = self.options.patience;
        let asked = tokio::time::timeout(patience, self.ask()).await;
        let answer = asked.unwrap_or(Err(LookError::TooSlow { after: patience }));
        let pause = match &answer {
            Ok((list, ttl)) if !list.is_empty() => {
                self.failures = 0;
                let (shortest, longest) = self.options.ttl;
                (*ttl).clamp(shortest, longest)
            }
            _ => {
                self.failures = self.failures.saturating_add(1);
                self.names.forget();
                self.options.pause(self.failures)
            }
        };
        self.due = Some(Instant::now() + pause);
        normal(answer?.0)
    }

    async fn ask(&mut self) -> Result<(Vec<ResolvedEndpoint>, Duration), LookError> {
        let resolver = self.names.resolver()?;
        match &self.question {
            Question::Addresses(name, port) => {
                let (found, ttl) = addresses(&resolver, name).await?;
                let endpoints = found.into_iter().map(|ip| endpoint(ip, *port, 0, 1));
                Ok((endpoints.collect(), ttl))
            }
            Question::Services(name) => services(&resolver, name).await,
        }
    }
}

impl EndpointSource for Dns {
    fn next(&mut self) -> BoxFuture<'_, Look> {
        self.look().boxed()
    }
}

fn endpoint(ip: IpAddr, port: u16, priority: u32, weight: u32) -> ResolvedEndpoint {
    ResolvedEndpoint {
        priority,
        zone: None,
        address: Address::Tcp(SocketAddr::new(ip, port)),
        version: None,
        labels: Labels::default(),
        weight,
    }
}

/// The addresses of all targets of an SRV record. A target whose name does not exist (any more) is
/// left out; one that nobody could be asked for fails the list.
async fn services(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(Vec<ResolvedEndpoint>, Duration), LookError> {
    let found = match resolver.lookup(name, RecordType::SRV).await {
        Ok(found) => found,
        Err(error) => return none_or(name, &error).map(|()| (Vec::new(), Duration::ZERO)),
    };
    let mut targets = Vec::new();
    for record in found.answers() {
        // The root as target says that there is decidedly no such service (RFC 2782).
        if let RData::SRV(srv) = &record.data
            && !srv.target.is_root()
        {
            targets.push((srv.clone(), record.ttl));
        }
    }
    let resolved = stream::iter(targets.into_iter().map(|(srv, ttl)| async move {
        let target = srv.target.to_string();
        let (ips, address_ttl) = match addresses(resolver, &target).await {
            Err(LookError::NoSuchName { .. }) => (Vec::new(), Duration::ZERO),
            found => found?,
        };
        let (priority, weight) = (u32::from(srv.priority), u32::from(srv.weight).max(1));
        let endpoints = ips.into_iter();
        let endpoints = endpoints.map(|ip| endpoint(ip, srv.port, priority, weight));
        let endpoints: Vec<_> = endpoints.collect();
        let ttl = Duration::from_secs(ttl.into());
        // A target without addresses says nothing about when to ask again.
        let ttl = if endpoints.is_empty() {
            ttl
        } else {
            ttl.min(address_ttl)
        };
        Ok::<_, LookError>((endpoints, ttl))
    }));
    let resolved: Vec<_> = resolved.buffer_unordered(AT_ONCE).try_collect().await?;
    let ttl = resolved.iter().map(|(_, ttl)| *ttl).min();
    let endpoints = resolved.into_iter().flat_map(|(endpoints, _)| endpoints);
    Ok((endpoints.collect(), ttl.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
