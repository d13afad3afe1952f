//! openraft with our types, log and state machine.

use super::{apply::StateMachine, types::TypeConfig};

/// The consensus handle.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;
