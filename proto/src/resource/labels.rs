//! Notes on endpoints, and what routes ask of them: the `envoy.lb` metadata of both.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Finite;

/// Notes by key. Most endpoints have none, and then nothing is kept; a copy is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Option<Arc<BTreeMap<Box<str>, LabelValue>>>);

impl Labels {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |labels| labels.len())
    }

    /// The value under this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&LabelValue> {
        self.0.as_ref()?.get(key)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &LabelValue)> {
        let labels = self.0.iter().flat_map(|labels| labels.iter());
        labels.map(|(key, value)| (&**key, value))
    }

    /// These, and in place of those with the same keys the other's.
    #[must_use]
    pub fn overridden_by(&self, other: &Self) -> Self {
        if self.is_empty() || other.is_empty() {
            let one = if other.is_empty() { self } else { other };
            return one.clone();
        }
        self.iter().chain(other.iter()).collect()
    }
}

impl<K: Into<Box<str>>, V: Clone + Into<LabelValue>> FromIterator<(K, V)> for Labels {
    /// Of two with the same key the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        let labels: BTreeMap<_, _> = pairs.map(|(k, v)| (k.into(), v.into())).collect();
        Self((!labels.is_empty()).then(|| Arc::new(labels)))
    }
}

/// As people write it: `{stage=canary, shard=3}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (key, value)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{key}={value}")?;
        }
        f.write_str("}")
    }
}

/// A value of JSON. Numbers are finite, so that values compare.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelValue {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number; all are floating.
    Number(Finite),
    /// A text.
    Text(Box<str>),
    /// A list.
    List(Box<[Self]>),
    /// An object.
    Object(Labels),
}

impl From<&str> for LabelValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<&Self> for LabelValue {
    fn from(value: &Self) -> Self {
        value.clone()
    }
}

/// As people write it; texts without quotes.
impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(value) => value.get().fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::List(values) => {
                let values: Vec<_> = values.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", values.join(", "))
            }
            Self::Object(labels) => labels.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    #[test]
    fn the_others_win() {
        let own = labels(&[("stage", "prod"), ("shard", "a")]);
        let other = labels(&[("stage", "canary")]);
        let both = labels(&[("shard", "a"), ("stage", "canary")]);
        assert_eq!(own.overridden_by(&other), both);
        assert_eq!(own.overridden_by(&Labels::default()), own);
        assert_eq!(Labels::default().overridden_by(&other), other);
    }

    #[test]
    fn none_at_all_are_empty() {
        assert_eq!(labels(&[]), Labels::default());
        assert!(labels(&[]).is_empty());
        assert_eq!(labels(&[]).len(), 0);
    }

    #[test]
    fn people_can_read_them() {
        let one = Finite::new(1.5).unwrap();
        let list = [LabelValue::Null, LabelValue::Bool(true), "x".into()];
        let values = [
            ("a", LabelValue::Number(one)),
            ("b", LabelValue::List(list.into())),
            ("c", LabelValue::Object(labels(&[("k", "v")]))),
        ];
        let text = Labels::from_iter(values).to_string();
        assert_eq!(text, "{a=1.5, b=[null, true, x], c={k=v}}");
    }
}
