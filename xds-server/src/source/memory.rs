//! A configuration that a program holds: for tests and for control planes built on this crate.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;
use sidestep_proto::wire::Any;
use tokio::sync::watch;

use super::{Configuration, Source, SourceError};
use crate::snapshot::{Delivery, RawResource, References, UnnamedResource};

/// A set of ready-made resources that the program may replace at any time.
///
/// Clones are handles on the same set: give one to the server, keep one to change it.
#[derive(Clone)]
pub struct RawResources {
    current: Arc<watch::Sender<Configuration>>,
    /// Sees every value, the first one included.
    changes: watch::Receiver<Configuration>,
}

impl RawResources {
    /// Starts with these resources.
    ///
    /// # Errors
    /// If one of them has no name.
    pub fn new(resources: impl IntoIterator<Item = Any>) -> Result<Self, UnnamedResource> {
        Self::with_references(resources, References::Closed)
    }

    /// Starts with these resources and does not check whether the names they mention exist: for
    /// tests of how clients take a broken configuration.
    ///
    /// # Errors
    /// If one of them has no name.
    pub fn unchecked(resources: impl IntoIterator<Item = Any>) -> Result<Self, UnnamedResource> {
        Self::with_references(resources, References::Open)
    }

    /// Starts with these resources, which every client is given as they are, whatever it is and
    /// whatever is wrong with them: for tests of clients. See [`Delivery::AsWritten`].
    ///
    /// # Errors
    /// If one of them has no name.
    pub fn as_written(resources: impl IntoIterator<Item = Any>) -> Result<Self, UnnamedResource> {
        Ok(Self::with(Configuration::as_written(named(resources)?)))
    }

    /// Starts with this configuration.
    #[must_use]
    pub fn with(configuration: Configuration) -> Self {
        let (current, mut changes) = watch::channel(configuration);
        changes.mark_changed();
        Self {
            current: Arc::new(current),
            changes,
        }
    }

    /// Replaces all resources.
    ///
    /// # Errors
    /// If one of them has no name; nothing has changed then.
    pub fn replace(&self, resources: impl IntoIterator<Item = Any>) -> Result<(), UnnamedResource> {
        let resources = named(resources)?;
        self.current.send_modify(|configuration| {
            configuration.summary = summary(resources.len());
            configuration.resources = resources;
        });
        Ok(())
    }

    /// Replaces the whole configuration, listeners on demand included.
    pub fn replace_configuration(&self, configuration: Configuration) {
        self.current.send_replace(configuration);
    }

    fn with_references(
        resources: impl IntoIterator<Item = Any>,
        references: References,
    ) -> Result<Self, UnnamedResource> {
        let resources = named(resources)?;
        Ok(Self::with(Configuration {
            summary: summary(resources.len()),
            resources,
            references,
            ..Configuration::default()
        }))
    }
}

impl Configuration {
    /// These resources, of any type, unchecked and for every client as they are: see
    /// [`Delivery::AsWritten`]. Only a name given twice among those of one type is still a fault.
    #[must_use]
    pub fn as_written(resources: Vec<RawResource>) -> Self {
        Self {
            summary: summary(resources.len()),
            resources,
            references: References::Open,
            delivery: Delivery::AsWritten,
            ..Self::default()
        }
    }
}

impl Source for RawResources {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn next(&mut self) -> BoxFuture<'_, Option<Result<Configuration, SourceError>>> {
        async {
            // Cannot fail: this handle holds a sender as well.
            self.changes.changed().await.ok()?;
            Some(Ok(self.changes.borrow_and_update().clone()))
        }
        .boxed()
    }
}

fn named(resources: impl IntoIterator<Item = Any>) -> Result<Vec<RawResource>, UnnamedResource> {
    resources.into_iter().map(RawResource::from_any).collect()
}

fn summary(resources: usize) -> String {
    match resources {
        1 => "1 resource".to_owned(),
        n => format!("{n} resources"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::cluster;

    #[tokio::test]
    async fn gives_what_there_is_then_what_changes() {
        let handle = RawResources::unchecked([cluster("a")]).expect("named");
        let mut source = handle.clone();
        let first = source.next().await.expect("a state").expect("valid");
        assert_eq!(first.resources[0].name, "a");
        assert!(source.next().now_or_never().is_none(), "nothing new yet");
        handle.replace([cluster("b"), cluster("c")]).expect("named");
        let second = source.next().await.expect("a state").expect("valid");
        assert_eq!(second.summary, "2 resources");
        assert_eq!(second.references, References::Open);
    }

    #[test]
    fn a_resource_without_a_name_changes_nothing() {
        let handle = RawResources::unchecked([cluster("a")]).expect("named");
        assert!(handle.replace([cluster("")]).is_err());
        assert_eq!(handle.current.borrow().resources.len(), 1);
    }
}
