//! Why a node does not start, or stops; and whether only a person can mend it, which the exit code says.

use std::io;

use crate::{
    env::identity::IdentityError,
    peer::hello::NotWelcome,
    storage::{snapshot::reader::SnapshotError, state::StateError, wal::WalError},
    tls::TlsError,
};

/// Why a node does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory is not this node's to use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log can't be used.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The peers do not want this node.
    #[error(transparent)]
    NotWelcome(#[from] NotWelcome),
    /// The files of TLS can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port can't be listened on.
    #[error("can't listen on {address} ({key}): {error}")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// Consensus does not start.
    #[error("consensus does not start: {0}")]
    Raft(String),
    /// The disk can't be read.
    #[error("the data directory: {0}")]
    Io(#[from] io::Error),
}

impl NodeError {
    /// Whether only a person can mend it. Else the system failed in a way that may be over at the next
    /// start (an I/O error, a full disk, no descriptors left).
    pub fn needs_a_person(&self) -> bool {
        let system = match self {
            NodeError::Identity(IdentityError::Io(error))
            | NodeError::Wal(WalError::Io { source: error, .. })
            | NodeError::State(
                StateError::Io { source: error, .. }
                | StateError::Snapshot(SnapshotError::Io { source: error, .. }),
            )
            | NodeError::Listen { error, .. }
            | NodeError::Io(error) => error,
            NodeError::State(StateError::Fatal(_)) | NodeError::Raft(_) => return false,
            NodeError::Identity(_)
            | NodeError::Wal(_)
            | NodeError::State(_)
            | NodeError::Tls(_)
            | NodeError::NotWelcome(_) => return true,
        };
        system_error_needs_a_person(system)
    }
}

/// The same of an error of the system: a path, an address or a permission that is wrong stays wrong.
pub fn system_error_needs_a_person(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::AddrInUse
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::AddrNotAvailable
    )
}
