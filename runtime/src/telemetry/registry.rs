//! Series that change now and then, outside of calls.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::cells::Also;
use super::instruments::Instrument;
use super::{Reading, Shared};

/// By instrument and label values.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<BTreeMap<Key, Value>>);

type Key = (&'static str, Box<[Box<str>]>);

#[derive(Debug)]
struct Value {
    now: i64,
    also: Also,
}

impl Registry {
    pub(super) fn add(
        &self,
        shared: &Shared,
        instrument: &'static Instrument,
        labels: &[&str],
        n: i64,
    ) {
        self.change(shared, instrument, labels, |value| {
            value.now = value.now.saturating_add(n);
            n
        });
    }

    pub(super) fn set(
        &self,
        shared: &Shared,
        instrument: &'static Instrument,
        labels: &[&str],
        value: i64,
    ) {
        self.change(shared, instrument, labels, |old| {
            old.now = value;
            value
        });
    }

    /// `change` answers with what exporters are told.
    fn change(
        &self,
        shared: &Shared,
        instrument: &'static Instrument,
        labels: &[&str],
        change: impl FnOnce(&mut Value) -> i64,
    ) {
        debug_assert_eq!(labels.len(), instrument.labels.len(), "{}", instrument.name);
        let mut values = super::lock(&self.0);
        let value = values
            .entry(key(instrument, labels))
            .or_insert_with(|| Value {
                now: 0,
                also: shared.series(instrument, labels),
            });
        let told = change(value);
        for series in &value.also {
            series.record(told);
        }
    }

    pub(super) fn forget(&self, instrument: &'static Instrument, labels: &[&str]) {
        super::lock(&self.0).remove(&key(instrument, labels));
    }

    pub(super) fn read(
        &self,
        instrument: &'static Instrument,
        show: &mut impl FnMut(&[&str], Reading<'_>),
    ) {
        let values = super::lock(&self.0);
        let first = (instrument.name, Box::default());
        for ((name, labels), value) in values.range(first..) {
            if *name != instrument.name {
                break;
            }
            let labels: Vec<&str> = labels.iter().map(|label| &**label).collect();
            show(&labels, Reading::Number(value.now));
        }
    }
}

fn key(instrument: &'static Instrument, labels: &[&str]) -> Key {
    let labels = labels.iter().map(|label| Box::from(*label)).collect();
    (instrument.name, labels)
}

#[cfg(test)]
mod tests {
    use super::super::instruments::{
        SUBCHANNEL_OPEN_CONNECTIONS, XDS_CLIENT_CONNECTED, XDS_CLIENT_SERVER_FAILURE,
    };
    use super::super::{Reading, Telemetry};

    fn read(telemetry: &Telemetry, instrument: &'static super::Instrument) -> Vec<(String, i64)> {
        let mut all = Vec::new();
        telemetry.read(instrument, |labels, reading| {
            if let Reading::Number(n) = reading {
                all.push((labels.join(" "), n));
            }
        });
        all
    }

    #[test]
    fn counts_gauges_and_forgets() {
        let telemetry = Telemetry::new(None);
        telemetry.add(&XDS_CLIENT_SERVER_FAILURE, &["a", "b"], 1);
        telemetry.add(&XDS_CLIENT_SERVER_FAILURE, &["a", "b"], 2);
        telemetry.add(&SUBCHANNEL_OPEN_CONNECTIONS, &["a", "none", "c", ""], 1);
        telemetry.add(&SUBCHANNEL_OPEN_CONNECTIONS, &["a", "none", "c", ""], -1);
        telemetry.set(&XDS_CLIENT_CONNECTED, &["a", "b"], 1);
        telemetry.set(&XDS_CLIENT_CONNECTED, &["a", "b"], 0);
        let of = |instrument| read(&telemetry, instrument);
        assert_eq!(of(&XDS_CLIENT_SERVER_FAILURE), [("a b".to_owned(), 3)]);
        assert_eq!(
            of(&SUBCHANNEL_OPEN_CONNECTIONS),
            [("a none c ".to_owned(), 0)]
        );
        assert_eq!(of(&XDS_CLIENT_CONNECTED), [("a b".to_owned(), 0)]);
        telemetry.forget(&XDS_CLIENT_CONNECTED, &["a", "b"]);
        assert_eq!(of(&XDS_CLIENT_CONNECTED), []);
    }
}
