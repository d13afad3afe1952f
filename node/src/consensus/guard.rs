//! Limits that the leader guards before it proposes. They protect it; they decide no answer: what is
//! let through is decided in apply.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tally_proto::seeded_bugs;

use super::{
    Consensus,
    error::{Limit, NotProposed},
};
use crate::{
    machine::{
        command::{Action, Command, Operation},
        gate, limits,
        query::{self, SessionLoad},
        quota::QuotaCommand,
        version::{FormatVersion, not_finalized},
    },
    storage::state::StateStore,
};

/// At most this many bytes of remembered answers under one session. A session that uses its whole
/// window for plain increments holds about a tenth of it.
pub const SESSION_ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// At most this many under all sessions.
pub const SESSION_ANSWER_BYTES_TOTAL_MAX: u64 = 1024 * 1024 * 1024;

/// What remembered answers hold.
#[derive(Debug, Clone, Copy)]
struct Loads {
    /// Bytes of all sessions.
    all_bytes: u64,
    /// Sessions are of users, and one is nobody else's.
    auth_enabled: bool,
    /// Of one session, if it is open.
    session: Option<SessionLoad>,
}

/// Looks the load of a session up once for each state: between two entries that are applied, many
/// writes come under the same session.
#[derive(Debug, Default)]
pub(super) struct SessionLoads(Mutex<Option<(Option<u64>, u64, Loads)>>);

impl SessionLoads {
    fn of(&self, state: &StateStore, session_id: u64) -> Loads {
        let view = state.view();
        let applied = view.applied().map(|applied| applied.index);
        if let Some((at, of, loads)) = *self.last()
            && (at, of) == (applied, session_id)
        {
            return loads;
        }
        let meta = query::meta(&view);
        let loads = Loads {
            all_bytes: meta.session_answer_bytes,
            auth_enabled: meta.auth.enabled,
            session: query::session_load(&view, session_id),
        };
        *self.last() = Some((applied, session_id, loads));
        loads
    }

    fn last(&self) -> MutexGuard<'_, Option<(Option<u64>, u64, Loads)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consensus {
    /// Refuses what the cluster's version of the formats does not have: some member may not be able to read it
    /// ([`gate`]). What this node has applied is not above what the entry will meet.
    pub(super) fn check_version(&self, command: &Command) -> Result<(), NotProposed> {
        let needed = gate::needed(&command.action);
        if needed == FormatVersion::FIRST {
            return Ok(());
        }
        let version = self.cluster_version();
        if needed > version && !seeded_bugs::is_on("gate-open") {
            return Err(NotProposed::UpgradeNotFinalized(not_finalized(needed, version)));
        }
        Ok(())
    }

    /// Whether comparisons of the replicas let a write through here. What nodes ask for by themselves goes on: it is
    /// what brings a majority back, and no client learns anything by it. So do sessions while states differ: else they
    /// would end, and what they remember with them, because their renewals were refused.
    pub(super) fn check_comparisons(&self, action: &Action) -> Result<(), NotProposed> {
        if action.is_own() {
            return Ok(());
        }
        let comparisons = self.comparisons();
        if let Some(reason) = comparisons.why_it_differs() {
            return Err(NotProposed::StateDiffers { reason });
        }
        match comparisons.why_nothing_is_written() {
            Some(reason) if !matches!(action, Action::RenewSession { .. }) => {
                Err(NotProposed::NoStateMajority { reason })
            }
            _ => Ok(()),
        }
    }

    /// Limits that the leader guards before it proposes.
    pub(super) fn check_limits(&self, command: &Command) -> Result<(), NotProposed> {
        if self.is_shutting_down() {
            return Err(NotProposed::ShuttingDown);
        }
        self.check_version(command)?;
        self.check_comparisons(&command.action)?;
        if self.disk_nearly_full() && !frees_room(&command.action) {
            return Err(NotProposed::Overloaded {
                limit: Limit::Disk,
                message: "the leader's disk is nearly full; deletes still work".to_owned(),
            });
        }
        let Some(stamp) = command.session else { return Ok(()) };
        let Loads { all_bytes, auth_enabled, session } =
            self.inner.session_loads.of(&self.inner.state, stamp.session_id);
        // Somebody else's is none, as in apply: how far it is, and how full, would tell that it is there.
        let user = command.caller.filter(|_| auth_enabled).map_or(0, |caller| caller.user);
        let load = session.filter(|session| session.user == user);
        let watermark = load.map_or(0, |load| load.watermark);
        if stamp.sequence
            >= watermark.max(stamp.lowest_unanswered).saturating_add(limits::SESSION_WINDOW)
        {
            return Err(NotProposed::Overloaded {
                limit: Limit::SessionWindow,
                message: format!(
                    "a session may use {} numbers above its lowest unanswered one",
                    limits::SESSION_WINDOW
                ),
            });
        }
        // A write that raises the watermark frees what is in the way.
        let raises_watermark = stamp.lowest_unanswered > watermark;
        let own_bytes = load.map_or(0, |load| load.bytes);
        let is_full =
            own_bytes >= SESSION_ANSWER_BYTES_MAX || all_bytes >= SESSION_ANSWER_BYTES_TOTAL_MAX;
        if is_full && !raises_watermark {
            return Err(NotProposed::Overloaded {
                limit: Limit::SessionBytes,
                message: format!(
                    "remembered answers hold {own_bytes} bytes of {SESSION_ANSWER_BYTES_MAX} for \
                     the session, and {all_bytes} of {SESSION_ANSWER_BYTES_TOTAL_MAX} for all"
                ),
            });
        }
        Ok(())
    }
}

/// Whether a full disk is no reason to refuse it: deletes are the way back to room, and a session must
/// not end because its renewals were refused while log time went on.
fn frees_room(action: &Action) -> bool {
    match action {
        Action::Single(operation) => operation.frees_room(),
        Action::Apply(step) => {
            step.operations.iter().chain(&step.else_operations).all(Operation::frees_room)
        }
        // A node is replaced because its disk is full.
        Action::CloseSession { .. }
        | Action::RenewSession { .. }
        | Action::Tick
        | Action::Compare
        | Action::NodeId(_)
        | Action::RaiseVersion { .. } => true,
        Action::Quota(change) => matches!(change, QuotaCommand::Delete { .. }),
        Action::OpenSession { .. }
        | Action::OpenOwnedSession { .. }
        | Action::Auth(_)
        | Action::Restore(_)
        | Action::CreateCluster { .. }
        | Action::CreateSecureCluster { .. }
        | Action::CreateClusterAt { .. } => false,
    }
}
