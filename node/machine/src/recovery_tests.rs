//! One node that goes on alone: what of before is told from what is new.

use super::*;
use crate::{
    given_ids::node_id_record,
    restore::{REVISION_JUMP, Recovery, SESSIONS_PER_EPOCH},
};

fn open() -> Action {
    Action::OpenSession { idle_timeout_ms: 5_000 }
}

fn opened(reply: Reply) -> u64 {
    match reply.result {
        Ok(Answer::SessionOpened { session_id, .. }) => session_id,
        other => panic!("{other:?}"),
    }
}

fn in_session(session_id: u64, sequence: u64, action: Action) -> Command {
    Command {
        session: Some(SessionStamp { session_id, sequence, lowest_unanswered: 1 }),
        fingerprint: Fingerprint::of(&action),
        ..command(action)
    }
}

fn recover(replica: &mut Replica) {
    let recovery = Recovery { node_id: 3, lost: vec![1, 2] };
    let reply = replica.run(command(Action::Restore(RestoreCommand::Recover(recovery))));
    assert!(reply.result.is_ok(), "{reply:?}");
}

#[test]
fn who_goes_on_alone_begins_a_new_epoch() {
    let mut replica = Replica::new(7);
    let before = opened(replica.run(command(open())));
    replica.run(in_session(before, 1, add("hits", 1))).result.unwrap();
    replica.run(keyed("order", add("hits", 1))).result.unwrap();
    let revision = query::meta(&replica.state).revision;

    recover(&mut replica);
    let meta = query::meta(&replica.state);
    assert_eq!((meta.cluster_id, meta.restore_epoch), (7, 1));
    assert_eq!(meta.revision, revision + REVISION_JUMP);
    assert_eq!(replica.counter("hits"), Some(2), "what it holds stays");
    for id in [1, 2] {
        assert!(node_id_record(&replica.state, id).expect("it was a member").retired, "node {id}");
    }
    assert!(!node_id_record(&replica.state, 3).expect("it is one").retired);

    // A session of before is none, whatever its number, and neither renews nor closes.
    for sequence in [1, 2] {
        let reply = replica.run(in_session(before, sequence, add("hits", 1)));
        assert_eq!(reply.result, Err(Refusal::SessionExpired { session_id: before }));
    }
    let renew = Action::RenewSession { session_id: before, lowest_unanswered: 0 };
    assert!(replica.run(command(renew)).result.is_err());
    let close = command(Action::CloseSession { session_id: before });
    assert_eq!(replica.run(close).result, Ok(Answer::SessionClosed { existed: false }));
    // A key of before is answered, and not applied again.
    let again = replica.run(keyed("order", add("hits", 1)));
    assert!(again.replayed, "{again:?}");
    assert_eq!(replica.counter("hits"), Some(2));

    // New ones are numbered from the epoch on, so none of before is met again; and its record ends at its time.
    let after = opened(replica.run(command(open())));
    assert!(after > SESSIONS_PER_EPOCH, "{after}");
    replica.run(in_session(after, 1, add("hits", 1))).result.unwrap();
    assert_eq!(replica.counter("hits"), Some(3));
    assert_eq!(query::meta(&replica.state).sessions, 2);
    replica.log_time_ms = 5_000;
    replica.run(command(Action::Tick));
    assert_eq!(query::meta(&replica.state).sessions, 0);
}

#[test]
fn each_recovery_is_an_epoch_of_its_own() {
    let mut replica = Replica::new(7);
    recover(&mut replica);
    let first = opened(replica.run(command(open())));
    replica.run(in_session(first, 1, add("hits", 1))).result.unwrap();
    recover(&mut replica);
    assert_eq!(query::meta(&replica.state).restore_epoch, 2);
    let reply = replica.run(in_session(first, 2, add("hits", 1)));
    assert_eq!(reply.result, Err(Refusal::SessionExpired { session_id: first }));
}

/// With authentication on it needs nobody's rights: no request becomes it.
#[test]
fn it_is_a_nodes_own_command() {
    let recover = Action::Restore(RestoreCommand::Recover(Recovery::default()));
    assert!(recover.is_own());
    assert!(!Action::Restore(RestoreCommand::Abort).is_own());
    let mut replica = secure(7, 1);
    let reply = replica.run(command(recover));
    assert!(reply.result.is_ok(), "{reply:?}");
    assert_eq!(query::meta(&replica.state).restore_epoch, 1);
}
