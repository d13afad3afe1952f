//! What a caller asks for besides the request itself.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{consistency::ReadLevel, node::Node};

/// What a caller asked for besides the request itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) deadline: Option<Duration>,
    pub(crate) until: Option<Instant>,
    pub(crate) level: ReadLevel,
    /// As the caller gave it.
    pub(crate) key: Option<String>,
    pub(crate) key_window: Duration,
    /// Asks whichever node this client has settled on.
    pub(crate) any_node: bool,
    /// Asks this node, and no other.
    pub(crate) only: Option<Arc<Node>>,
    pub(crate) max_attempts: Option<u32>,
}

impl Plan {
    pub(crate) fn until(until: Instant) -> Self {
        Self { until: Some(until), ..Self::default() }
    }
}
