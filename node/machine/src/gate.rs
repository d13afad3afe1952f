//! What needs which version of the formats: the gate in front of everything that an older release can't read.
//!
//! # The table
//!
//! | version | what it brought |
//! |---|---|
//! | 1 | everything of the first release, quotas and the comparison of replicas among it |
//! | 2 | a cluster has a version: [`Action::RaiseVersion`], [`Action::CreateClusterAt`], both in entries of format 3, and [`super::records::Meta`] in its form 5 |
//!
//! **To add something:** its line above, and its arm in [`needed`], which names every action so that none is forgotten.
//! What is no action asks the state for the version (`query::meta(view).version`), and writes the old form below it. If
//! the newest version was released already, [`FormatVersion::MAX`] goes up by one, and fixtures of the one before are
//! made first (`node/tests/fixtures`).
//!
//! # What holds
//!
//! **Claim.** No node meets an entry, a record or a message that it can't read, as long as it is of a release whose range
//! has the cluster's version.
//!
//! **It relies on** the log: `RaiseVersion` is applied by all at one place in it, so that replicas with equal applied
//! index write equal bytes; and on the leader, which refuses to add a member that does not read the cluster's version.
//!
//! **The steps.** A leader proposes nothing that needs more than the version of the state that it has applied
//! (`consensus::guard`). The version never falls, so what it proposes finds that version or a higher one where it is
//! applied; apply looks again, and refuses. A node writes the new version down in its data directory before it applies
//! the entry (`env::identity`), so that an older release refuses that directory before it has changed anything.
//!
//! **What breaks it:** to count a member that was not heard (`finalize-unheard`), to propose what the version does not
//! have (`gate-open`), both seeded bugs of the simulator; to encode a record by what a node can do, and not by the
//! cluster's version.

use super::{
    auth::AuthCommand,
    command::{Action, Operation},
    node_ids::NodeIdCommand,
    quota::QuotaCommand,
    restore::RestoreCommand,
    version::FormatVersion,
};

/// The version that a cluster must have for this to be written into its log.
pub fn needed(action: &Action) -> FormatVersion {
    #[cfg(any(test, feature = "seeded-bugs"))]
    if let Some(version) = pretended::needed(action) {
        return version;
    }
    match action {
        Action::Single(operation) => of_operation(operation),
        Action::Apply(step) => {
            let operations = step.operations.iter().chain(&step.else_operations);
            operations.map(of_operation).max().unwrap_or_default()
        }
        Action::OpenSession { .. }
        | Action::RenewSession { .. }
        | Action::CloseSession { .. }
        | Action::Tick
        | Action::CreateCluster { .. }
        | Action::OpenOwnedSession { .. }
        | Action::CreateSecureCluster { .. } => FormatVersion::FIRST,
        Action::Auth(
            AuthCommand::Begin { .. }
            | AuthCommand::Enable
            | AuthCommand::Disable
            | AuthCommand::PutRole { .. }
            | AuthCommand::DeleteRole { .. }
            | AuthCommand::PutUser { .. }
            | AuthCommand::DeleteUser { .. }
            | AuthCommand::CreateToken { .. }
            | AuthCommand::RevokeToken { .. }
            | AuthCommand::PutLimitedRole { .. },
        ) => FormatVersion::FIRST,
        Action::Restore(
            RestoreCommand::Begin(_)
            | RestoreCommand::Block { .. }
            | RestoreCommand::Finish { .. }
            | RestoreCommand::Abort
            | RestoreCommand::Recover(_),
        ) => FormatVersion::FIRST,
        Action::NodeId(
            NodeIdCommand::Claim { .. }
            | NodeIdCommand::Retire { .. }
            | NodeIdCommand::Drain { .. },
        ) => FormatVersion::FIRST,
        Action::Quota(QuotaCommand::Set { .. } | QuotaCommand::Delete { .. }) | Action::Compare => {
            FormatVersion::FIRST
        }
        // With these a cluster gets its version; what they ask of its members is `raises`.
        Action::RaiseVersion { .. } | Action::CreateClusterAt { .. } => FormatVersion::FIRST,
    }
}

fn of_operation(operation: &Operation) -> FormatVersion {
    match operation {
        Operation::CounterAdd(_)
        | Operation::CounterGet(_)
        | Operation::CounterSet(_)
        | Operation::CounterCompareAndSet(_)
        | Operation::CounterDelete(_)
        | Operation::CounterConfigure(_)
        | Operation::KeyPut(_)
        | Operation::KeyGet(_)
        | Operation::KeyDelete(_) => FormatVersion::FIRST,
    }
}

/// The version that a cluster has from this action on, if it gives it one: every member must read that.
pub fn raises(action: &Action) -> Option<FormatVersion> {
    match action {
        Action::RaiseVersion { to } => Some(*to),
        Action::CreateClusterAt { version, .. } => Some(*version),
        _ => None,
    }
}

/// What a version has that the one before had not, pretended for simulations and tests: so the gate stands in front of
/// something that clients ask for, also while the newest version has nothing of that kind.
#[cfg(any(test, feature = "seeded-bugs"))]
pub mod pretended {
    use std::cell::Cell;

    use super::of_each;
    use crate::{
        command::{Action, Operation},
        version::FormatVersion,
    };

    thread_local! {
        static CONFIGURE: Cell<Option<FormatVersion>> = const { Cell::new(None) };
    }

    /// On this thread bounds of counters need this version.
    pub fn bounds_need(version: Option<FormatVersion>) {
        CONFIGURE.set(version);
    }

    pub(super) fn needed(action: &Action) -> Option<FormatVersion> {
        let version = CONFIGURE.get()?;
        of_each(action).any(|it| matches!(it, Operation::CounterConfigure(_))).then_some(version)
    }
}

/// All operations of an action.
#[cfg(any(test, feature = "seeded-bugs"))]
fn of_each(action: &Action) -> Box<dyn Iterator<Item = &Operation> + '_> {
    match action {
        Action::Single(operation) => Box::new(std::iter::once(operation)),
        Action::Apply(step) => Box::new(step.operations.iter().chain(&step.else_operations)),
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply, codec,
        command::*,
        memory::MemoryView,
        query,
        records::{Meta, Record},
        version::FormatRange,
        view::{Overlay, Writes},
    };

    fn command(action: Action) -> Command {
        Command {
            session: None,
            idempotency: None,
            fingerprint: Fingerprint::default(),
            action,
            caller: None,
        }
    }

    fn run(state: &mut MemoryView, index: u64, action: Action) -> Reply {
        let commands = vec![command(action)];
        let batch = Batch { log_time_ms: index, wall_time_ms: 0, commands };
        let mut writes = Writes::default();
        let mut replies = apply(&mut Overlay::new(state, &mut writes), index, &batch);
        state.commit(writes);
        replies.remove(0)
    }

    fn create() -> Action {
        Action::CreateCluster { cluster_id: 7, settings: Settings::default() }
    }

    fn bounds() -> Action {
        let bounds = Bounds { floor: Some(0), ceiling: None };
        Action::Single(Operation::CounterConfigure(CounterConfigure { name: "a".into(), bounds }))
    }

    /// A state that never had another version has the bytes that it always had.
    #[test]
    fn the_first_version_is_stored_as_ever() {
        let mut state = MemoryView::default();
        run(&mut state, 1, create());
        let meta = query::meta(&state);
        assert_eq!(meta.version, FormatVersion::FIRST);
        assert_eq!(meta.encode()[0], 1);
        let raised = Meta { version: FormatVersion(2), ..meta };
        let bytes = raised.encode();
        assert_eq!(bytes[0], 5);
        assert_eq!(Meta::decode(&bytes), Ok(raised));
        assert_eq!(bytes.last(), Some(&2));
        let newer = [&[6][..], &bytes[1..]].concat();
        let error = Meta::decode(&newer.into()).unwrap_err();
        assert!(error.to_string().contains("format 6, this release reads up to 5"), "{error}");
    }

    #[test]
    fn it_rises_and_never_falls() {
        let mut state = MemoryView::default();
        run(&mut state, 1, create());
        for (index, to, then) in [(2, 1, 1), (3, 2, 2), (4, 2, 2), (5, 1, 2), (6, 9, 9)] {
            let before = query::meta(&state).revision;
            let reply = run(&mut state, index, Action::RaiseVersion { to: FormatVersion(to) });
            assert_eq!((reply.result, reply.revision), (Ok(Answer::Done), before));
            assert_eq!(query::meta(&state).version, FormatVersion(then));
        }
        // A cluster may begin with it; and only once.
        for version in [2, 3].map(FormatVersion) {
            let (settings, secret_hash) = (Settings::default(), Some([9; 32]));
            let mut state = MemoryView::default();
            let create = Action::CreateClusterAt { cluster_id: 7, settings, secret_hash, version };
            run(&mut state, 1, create);
            let again = FormatVersion(9);
            let create = Action::CreateClusterAt {
                cluster_id: 8,
                settings,
                secret_hash: None,
                version: again,
            };
            run(&mut state, 2, create);
            let meta = query::meta(&state);
            assert_eq!((meta.cluster_id, meta.version, meta.auth.enabled), (7, version, true));
        }
    }

    /// What the version does not have is refused where it is applied, leaves no trace, and is taken from the very entry
    /// on that raises it.
    #[test]
    fn what_a_version_brings_waits_for_it() {
        let mut state = MemoryView::default();
        run(&mut state, 1, create());
        assert_eq!(needed(&bounds()), FormatVersion::FIRST);
        pretended::bounds_need(Some(FormatVersion(2)));
        let step = ApplyStep {
            conditions: Vec::new(),
            operations: Vec::new(),
            else_operations: match bounds() {
                Action::Single(operation) => vec![operation],
                _ => unreachable!("it is one operation"),
            },
        };
        for action in [bounds(), Action::Apply(step)] {
            let refused = run(&mut state, 2, action).result;
            let (needed, version) = (FormatVersion(2), FormatVersion::FIRST);
            assert_eq!(refused, Err(Refusal::UpgradeNotFinalized { needed, version }));
            let says = refused.unwrap_err().to_string();
            assert!(says.contains("takes version 2") && says.contains("finalize"), "{says}");
        }
        assert_eq!(query::counter(&state, "a"), None);
        let commands = vec![
            command(bounds()),
            command(Action::RaiseVersion { to: FormatVersion(2) }),
            command(bounds()),
        ];
        let batch = Batch { log_time_ms: 3, wall_time_ms: 0, commands };
        let mut writes = Writes::default();
        let replies = apply(&mut Overlay::new(&state, &mut writes), 3, &batch);
        pretended::bounds_need(None);
        // Bounds are of counters that exist.
        let not_finalized =
            |reply: &Reply| matches!(reply.result, Err(Refusal::UpgradeNotFinalized { .. }));
        assert_eq!(replies.iter().map(not_finalized).collect::<Vec<_>>(), [true, false, false]);
    }

    /// Pins the bytes in logs.
    #[test]
    fn versions_in_entries_are_frozen() {
        // Its format is one that releases from before name as newer; the callers are at the end.
        let head = [&[3, 0xac, 2, 2, 1, 0, 0][..], &[0; 32]].concat();
        let no_caller = [1, 0];
        let settings = Settings {
            sessions_max: 1,
            session_idle_ms: 2,
            idempotency_window_ms: 3,
            idempotency_bytes_max: 4,
        };
        let version = FormatVersion(2);
        let create =
            |secret_hash| Action::CreateClusterAt { cluster_id: 5, settings, secret_hash, version };
        let secret = [&[15, 5, 1, 2, 3, 4, 1][..], &[9; 32], &[2]].concat();
        for (action, tail) in [
            (Action::RaiseVersion { to: version }, &[14, 2][..]),
            (create(None), &[15, 5, 1, 2, 3, 4, 0, 2]),
            (create(Some([9; 32])), &secret),
        ] {
            let commands = vec![command(action)];
            let batch = Batch { log_time_ms: 300, wall_time_ms: 2, commands };
            let bytes = [&head[..], tail, &no_caller].concat();
            assert_eq!(codec::encode_batch(&batch), bytes);
            assert_eq!(codec::decode_batch(&bytes), Ok(batch));
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(FormatRange::said(0, 0), FormatRange::UNSAID);
        assert!(FormatRange::said(1, 2).has(FormatVersion(2)));
        assert!(!FormatRange::said(2, 3).has(FormatVersion(1)));
        assert!(!FormatRange::UNSAID.has(FormatVersion(2)));
        assert_eq!(FormatRange::said(1, 2).to_string(), "1 to 2");
        assert_eq!(FormatRange::UNSAID.to_string(), "1");
    }
}
