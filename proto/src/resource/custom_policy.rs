//! Load-balancing policies that a process brings itself (gRFC A52).

use std::any::Any;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What a process has registered under the name of a policy.
pub trait RegisteredPolicy: Any + Debug + Send + Sync {
    /// As the control plane names it.
    fn name(&self) -> &str;
    /// Whether the policy can be made of this configuration, a JSON object.
    ///
    /// # Errors
    /// Why not, in words: the cluster is refused with them.
    fn check(&self, config: &str) -> Result<(), String>;
}

/// A policy of the process's own, as a cluster asks for it.
#[derive(Debug, Clone)]
pub struct CustomPolicy {
    /// As it is registered.
    pub name: String,
    /// A JSON object, its keys in order: equal configurations are equal texts.
    pub config: String,
    /// What the process has registered; `None` where a tool reads on behalf of processes that it
    /// does not know.
    pub registered: Option<Arc<dyn RegisteredPolicy>>,
}

/// By name and configuration: in one process one name means one thing.
impl PartialEq for CustomPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.config == other.config
    }
}

impl Eq for CustomPolicy {}

impl Hash for CustomPolicy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.config.hash(state);
    }
}
