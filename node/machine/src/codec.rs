//! Bytes of what is logged, sent between nodes, and stored.
//!
//! The first byte is the version of the format; the rest is postcard. A reader knows every version
//! up to its own and refuses a newer one by name instead of guessing. Bytes are produced by the
//! proposer and stored as they are, so two releases never have to encode alike for the log; for
//! records they must, since replicas are compared by their bytes: a new record format needs a
//! feature level that all replicas switch at the same entry.

use bytes::Bytes;
use serde::Serialize;

pub use super::versioned::{CodecError, FORMAT_VERSION};
use super::{
    command::{Action, Batch, Caller, Command, Test},
    gate,
    item::Target,
    operation::Operation,
    reply::Reply,
    restore::RestoreCommand,
    versioned::{decode_rest, encode, encode_as, version},
};

/// Encodes a log entry.
///
/// # Panics
///
/// If it opens two sessions: the id of a session is the log index of its entry.
pub fn encode_batch(batch: &Batch) -> Bytes {
    assert!(opens_at_most_one_session(batch), "a log entry opens two sessions, which share an id");
    let has_callers = batch.commands.iter().any(|command| command.caller.is_some());
    let raises = raises_version(batch);
    if has_callers || raises {
        let version = if raises { RAISES_VERSION } else { WITH_CALLERS_VERSION };
        let callers: Vec<Option<Caller>> = batch.commands.iter().map(|it| it.caller).collect();
        return encode_sized(version, &(batch, callers), batch);
    }
    encode_sized(FORMAT_VERSION, batch, batch)
}

fn raises_version(batch: &Batch) -> bool {
    batch.commands.iter().any(|command| gate::raises(&command.action).is_some())
}

/// Encodes a batch, with what lies beside it.
fn encode_sized(version: u8, value: &impl Serialize, batch: &Batch) -> Bytes {
    if batch.commands.len() < 2 {
        return encode_as(version, value);
    }
    // A buffer that has to grow is copied, and keeps up to twice what it needs for as long as the entry
    // is in the log's cache.
    let buffer = Vec::with_capacity(batch.commands.iter().map(size_hint).sum());
    postcard::to_extend(&(version, value), buffer)
        .expect("plain data in memory can be encoded")
        .into()
}

/// About how many bytes a command takes in its entry.
pub fn size_hint(command: &Command) -> usize {
    let key = command.idempotency.as_ref().map_or(0, |idempotency| idempotency.key.len());
    size_hint_of(&command.action, key)
}

/// The same of a command that is not made yet, from its action and the length of its key.
pub fn size_hint_of(action: &Action, key_bytes: usize) -> usize {
    /// Fingerprint, session stamp and tags.
    const FIXED: usize = 64;
    let action = match action {
        Action::Single(operation) => operation.size_hint(),
        Action::Apply(step) => {
            let conditions = step.conditions.iter().map(|condition| {
                let (Target::Counter(name) | Target::Key(name)) = &condition.target;
                let value = match &condition.test {
                    Test::KeyValue(_, value) => value.len(),
                    _ => 8,
                };
                name.len() + value + 8
            });
            let operations = step.operations.iter().chain(&step.else_operations);
            conditions.sum::<usize>() + operations.map(Operation::size_hint).sum::<usize>()
        }
        Action::Restore(RestoreCommand::Block { payload, .. }) => payload.len(),
        _ => 0,
    };
    FIXED + key_bytes + action
}

/// Decodes a log entry.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, CodecError> {
    let (version, rest) = version("batch", bytes, RAISES_VERSION)?;
    let batch = match version {
        FORMAT_VERSION => decode_rest("batch", rest)?,
        _ => decode_with_callers(rest)?,
    };
    // What raises the version says so in the format of its entry, which is what an older release goes by.
    match raises_version(&batch) == (version == RAISES_VERSION) {
        true => Ok(batch),
        false => Err(corrupt_batch()),
    }
}

fn decode_with_callers(rest: &[u8]) -> Result<Batch, CodecError> {
    let (mut batch, callers): (Batch, Vec<Option<Caller>>) = decode_rest("batch", rest)?;
    if callers.len() != batch.commands.len() {
        return Err(corrupt_batch());
    }
    for (command, caller) in batch.commands.iter_mut().zip(callers) {
        command.caller = caller;
    }
    Ok(batch)
}

fn corrupt_batch() -> CodecError {
    CodecError::Corrupt { what: "batch", reason: postcard::Error::SerdeDeCustom }
}

/// Encodes one command, to forward it to the leader.
pub fn encode_command(command: &Command) -> Bytes {
    match command.caller {
        None => encode(command),
        Some(caller) => encode_as(WITH_CALLERS_VERSION, &(command, caller)),
    }
}

/// Decodes one command.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    let (version, rest) = version("command", bytes, WITH_CALLERS_VERSION)?;
    if version == FORMAT_VERSION {
        return decode_rest("command", rest);
    }
    let (command, caller): (Command, Caller) = decode_rest("command", rest)?;
    Ok(Command { caller: Some(caller), ..command })
}

/// Encodes one reply, to bring it back to the node that forwarded the command.
pub fn encode_reply(reply: &Reply) -> Bytes {
    match reply.hidden {
        false => encode(reply),
        true => encode_as(HIDDEN_REPLY_VERSION, reply),
    }
}

/// Decodes one reply.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    let (version, rest) = version("reply", bytes, HIDDEN_REPLY_VERSION)?;
    let reply: Reply = decode_rest("reply", rest)?;
    Ok(Reply { hidden: version == HIDDEN_REPLY_VERSION, ..reply })
}

/// Version of entries and commands that say who calls: those that don't have the bytes that they had before
/// there were callers.
const WITH_CALLERS_VERSION: u8 = 2;

/// Version of entries that give the cluster a version of the formats. They are those of [`WITH_CALLERS_VERSION`]: what
/// differs is what a release says of them that is from before clusters had versions, and meets one after all. It names a
/// format that is newer, and not bytes that are corrupt.
const RAISES_VERSION: u8 = 3;

/// Version of a reply of which something was left out.
const HIDDEN_REPLY_VERSION: u8 = 2;

pub(super) fn opens_at_most_one_session(batch: &Batch) -> bool {
    let opens = |command: &&Command| command.action.opens_session();
    batch.commands.iter().filter(opens).nth(1).is_none()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            command::{CounterRecord, CounterSet, KeyRecord, Owner, Settings},
            records::{Meta, OwnerRecord, Record, SessionRecord},
            version::FormatVersion,
        },
        *,
    };

    fn command(action: Action) -> Command {
        Command {
            session: None,
            idempotency: None,
            fingerprint: Default::default(),
            action,
            caller: None,
        }
    }

    fn batch(commands: Vec<Command>) -> Batch {
        Batch { log_time_ms: 300, wall_time_ms: 2, commands }
    }

    /// Found by fuzzing: the same command in an entry of another format would be read here, and encoded anew otherwise.
    #[test]
    fn what_raises_the_version_is_in_entries_of_its_format_alone() {
        let raises = batch(vec![command(Action::RaiseVersion { to: FormatVersion::MAX })]);
        let bytes = encode_batch(&raises);
        assert_eq!((bytes[0], decode_batch(&bytes)), (RAISES_VERSION, Ok(raises.clone())));
        let tick = batch(vec![command(Action::Tick)]);
        let none: Vec<Option<Caller>> = vec![None];
        let others = [
            encode_as(FORMAT_VERSION, &raises),
            encode_as(WITH_CALLERS_VERSION, &(&raises, &none)),
            encode_as(RAISES_VERSION, &(&tick, &none)),
        ];
        for bytes in others {
            let error = decode_batch(&bytes).unwrap_err();
            assert!(matches!(error, CodecError::Corrupt { what: "batch", .. }), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_bytes_is_named() {
        let bytes = encode_batch(&batch(vec![command(Action::Tick)]));
        assert_eq!(decode_batch(&bytes), Ok(batch(vec![command(Action::Tick)])));

        assert_eq!(decode_batch(b""), Err(CodecError::Empty { what: "batch" }));
        let mut newer = bytes.to_vec();
        newer[0] = 4;
        let error = decode_batch(&newer).unwrap_err();
        assert_eq!(error.to_string(), "an encoded batch has format 4, this release reads up to 3");
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode_batch(&longer), Err(CodecError::Trailing { what: "batch", bytes: 1 }));
        for length in 1..bytes.len() {
            let error = decode_batch(&bytes[..length]).unwrap_err();
            assert!(matches!(error, CodecError::Corrupt { what: "batch", .. }), "{error}");
        }
        assert!(decode_reply(b"\x01\xff").is_err());
    }

    #[test]
    #[should_panic(expected = "a log entry opens two sessions")]
    fn an_entry_opens_one_session() {
        let open = || command(Action::OpenSession { idle_timeout_ms: 0 });
        let owner = "10.0.0.7".parse().unwrap();
        let owned = Action::OpenOwnedSession { idle_timeout_ms: 0, owner, share_percent: 50 };
        encode_batch(&batch(vec![open(), command(Action::Tick), command(owned)]));
    }

    /// Pins the bytes of the log: a failure here means that old logs can't be read.
    #[test]
    fn the_log_format_is_frozen() {
        let set = Operation::CounterSet(CounterSet { name: "a".into(), value: -1 });
        let bytes = encode_batch(&batch(vec![command(Action::Single(set))]));
        let mut expected = vec![
            1, // version
            0xac, 2, 2, // log time, wall time
            1, // commands
            0, 0, // no session, no key
        ];
        expected.extend([0; 32]); // fingerprint
        expected.extend([0, 2, 1, b'a', 1]); // Single, CounterSet, name, value
        assert_eq!(bytes, expected);
    }

    #[test]
    fn records_come_back() {
        fn check<R: Record + PartialEq + std::fmt::Debug>(record: R) {
            let bytes = record.encode();
            assert_eq!(R::decode(&bytes), Ok(record));
            assert!(matches!(R::decode(&Bytes::new()), Err(CodecError::Empty { .. })));
            let cut = R::decode(&bytes.slice(..3));
            assert!(matches!(cut, Err(CodecError::Corrupt { .. })), "{cut:?}");
        }
        let settings = Settings { sessions_max: 300, ..Settings::default() };
        check(Meta { cluster_id: u128::MAX, settings, revision: u64::MAX, ..Meta::default() });
        check(CounterRecord {
            value: i64::MIN,
            bounds: Default::default(),
            created_revision: 1,
            modified_revision: u64::MAX,
            modified_wall_time_ms: 3,
        });
        check(KeyRecord {
            value: Bytes::from_static(b"value"),
            created_revision: 1,
            modified_revision: u64::MAX,
            modified_wall_time_ms: 3,
        });
        check(session(None));
        check(session(Some("10.0.0.7".parse().unwrap())));
        check(session(Some("2001:db8::1".parse().unwrap())));
        check(OwnerRecord { sessions: u64::MAX });
    }

    fn session(owner: Option<Owner>) -> SessionRecord {
        SessionRecord {
            idle_timeout_ms: 1,
            expires_at_ms: 2,
            watermark: 3,
            removed_below: 4,
            highest_sequence: u64::MAX,
            answers: 6,
            answer_bytes: 7,
            garbage_queued: true,
            opened_wall_time_ms: 8,
            owner,
            user: 0,
        }
    }

    /// Sessions from before they had owners are read, and written again as they were: a replica of an
    /// older release has the same bytes.
    #[test]
    fn a_session_without_an_owner_is_stored_as_ever() {
        let highest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let numbers = [&[1, 2, 3, 4][..], &highest, &[6, 7, 1, 8]].concat();
        let old = Bytes::from([&[1][..], &numbers].concat());
        assert_eq!(SessionRecord::decode(&old), Ok(session(None)));
        assert_eq!(session(None).encode(), old);
        let owned = session(Some("10.0.0.7".parse().unwrap()));
        let new = Bytes::from([&[2][..], &numbers, &[0, 10, 0, 0, 7]].concat());
        assert_eq!(owned.encode(), new);
        // … and of a user, with an owner or without one.
        let of_user = SessionRecord { user: 300, ..owned };
        let newest = Bytes::from([&[3][..], &numbers, &[1, 0, 10, 0, 0, 7, 0xac, 2]].concat());
        assert_eq!((of_user.encode(), SessionRecord::decode(&newest)), (newest, Ok(of_user)));
        let of_user = SessionRecord { owner: None, ..of_user };
        assert_eq!(SessionRecord::decode(&of_user.encode()), Ok(of_user));
        let mut newer = new.to_vec();
        newer[0] = 4;
        let error = SessionRecord::decode(&newer.into()).unwrap_err();
        let says = "an encoded session has format 4, this release reads up to 3";
        assert_eq!(error.to_string(), says);
    }

    /// However an address was encoded, it is the owner with its octets, under which sessions are counted.
    #[test]
    fn an_owner_is_one_however_its_address_is_encoded() {
        let mut mapped = session(Some("10.0.0.7".parse().unwrap())).encode().to_vec();
        let numbers = mapped.len() - 5;
        mapped.truncate(numbers);
        mapped.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 7]);
        let read = SessionRecord::decode(&mapped.into()).unwrap();
        assert_eq!(read.owner, Some("10.0.0.7".parse().unwrap()));
    }

    /// Entries from before sessions had owners are read, and so are those since.
    #[test]
    fn both_ways_to_open_a_session_are_in_logs() {
        let open = |action| batch(vec![command(action)]);
        let head = [&[1, 0xac, 2, 2, 1, 0, 0][..], &[0; 32]].concat();
        for (action, tail) in [
            (Action::OpenSession { idle_timeout_ms: 5 }, &[2, 5][..]),
            (
                Action::OpenOwnedSession {
                    idle_timeout_ms: 5,
                    owner: "10.0.0.7".parse().unwrap(),
                    share_percent: 50,
                },
                &[7, 5, 0, 10, 0, 0, 7, 50],
            ),
        ] {
            let bytes = [&head[..], tail].concat();
            assert_eq!(encode_batch(&open(action.clone())), bytes);
            assert_eq!(decode_batch(&bytes), Ok(open(action)));
        }
    }
}
