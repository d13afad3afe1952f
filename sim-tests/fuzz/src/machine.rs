//! Log entries and what they hold, and the records of the state.

use bytes::Bytes;
use tally_machine::{
    auth::{RoleLimit, RoleRecord, TokenRecord, UserIdRecord, UserRecord},
    codec,
    command::{Batch, CounterRecord, KeyRecord},
    keys::RecordKey,
    quota::QuotaRecord,
    records::{IdempotencyRecord, Meta, OwnerRecord, Record, SessionAnswerRecord, SessionRecord},
};

use crate::{allocation::bounded, choose};

/// An operation without a name is three bytes and takes about a hundred.
const TIMES: usize = 64;
/// Serde believes a length up to 1 MiB of elements before it has them; three lengths may be open at once.
const BESIDES: usize = (3 << 20) + 64 * 1024;

/// A batch, a command or a reply.
pub(crate) fn entry(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 3) else { return };
    match which {
        0 => {
            let read = bounded(bytes.len(), TIMES, BESIDES, || codec::decode_batch(bytes));
            let Ok(batch) = read else { return };
            if batch.commands.iter().filter(|it| it.action.opens_session()).count() > 1 {
                return;
            }
            let again = codec::encode_batch(&batch);
            assert!(again.len() <= bytes.len(), "the shortest encoding is longer");
            assert_eq!(codec::decode_batch(&again).as_ref(), Ok(&batch));
            shown(&batch);
        }
        1 => {
            let read = bounded(bytes.len(), TIMES, BESIDES, || codec::decode_command(bytes));
            let Ok(command) = read else { return };
            let again = codec::encode_command(&command);
            assert_eq!(codec::decode_command(&again).as_ref(), Ok(&command));
        }
        _ => {
            let read = bounded(bytes.len(), TIMES, BESIDES, || codec::decode_reply(bytes));
            let Ok(reply) = read else { return };
            let again = codec::encode_reply(&reply);
            assert_eq!(codec::decode_reply(&again).as_ref(), Ok(&reply));
        }
    }
}

/// Logs and scripts show what was asked, whatever is in it.
fn shown(batch: &Batch) {
    for command in &batch.commands {
        let shown = command.action.to_string();
        assert!(!shown.is_empty());
    }
}

fn same<R: Record + PartialEq + std::fmt::Debug>(bytes: &Bytes) -> bool {
    let Ok(record) = bounded(bytes.len(), TIMES, BESIDES, || R::decode(bytes)) else {
        return false;
    };
    let again = record.encode();
    assert_eq!(R::decode(&again).as_ref(), Ok(&record));
    assert_eq!(R::decode(&again).expect("just read").encode(), again);
    assert!(again.len() <= bytes.len(), "the one encoding is longer than another one");
    true
}

pub(crate) const RECORDS: usize = 17;

/// Which kind of record, then its bytes.
pub(crate) fn record(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, RECORDS) else { return };
    let bytes = Bytes::copy_from_slice(bytes);
    match which {
        0 => drop(same::<Meta>(&bytes)),
        1 => drop(same::<CounterRecord>(&bytes)),
        2 => {
            if same::<KeyRecord>(&bytes) {
                assert_eq!(KeyRecord::decode(&bytes).expect("just read").encode(), bytes);
            }
        }
        3 => drop(same::<SessionRecord>(&bytes)),
        4 => drop(same::<SessionAnswerRecord>(&bytes)),
        5 => drop(same::<IdempotencyRecord>(&bytes)),
        6 => drop(same::<OwnerRecord>(&bytes)),
        7 => {
            if let Ok(key) = RecordKey::decode(&bytes) {
                assert_eq!(key.encode(), bytes, "a key has one encoding");
            }
        }
        8 => {
            if let Some(again) = tally_storage::fuzzing::state_meta(&bytes) {
                // The version is not in what is made anew if it is an older one.
                assert_eq!(again[2..again.len() - 4], bytes[2..bytes.len() - 4]);
            }
        }
        9 => {
            // With the checksum that it should have.
            let sealed = [&bytes[..], &crc32c::crc32c(&bytes).to_le_bytes()].concat().into();
            if let Some(again) = tally_storage::fuzzing::state_meta(&sealed) {
                assert_eq!(again[2..again.len() - 4], sealed[2..sealed.len() - 4]);
            }
        }
        10 => {
            if let Some((_, again)) = tally_storage::fuzzing::pointer(&bytes) {
                assert_eq!(again.as_bytes(), &bytes[..], "a pointer has one encoding");
            }
        }
        11 => drop(same::<UserRecord>(&bytes)),
        12 => drop(same::<UserIdRecord>(&bytes)),
        13 => drop(same::<RoleRecord>(&bytes)),
        14 => drop(same::<TokenRecord>(&bytes)),
        15 => drop(same::<RoleLimit>(&bytes)),
        _ => drop(same::<QuotaRecord>(&bytes)),
    }
}
