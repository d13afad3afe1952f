//! The map against a plain ordered one, and the keys of answers against those of their records.

use proptest::prelude::*;

use super::{key::ANSWER_KEY_BYTES, *};
use crate::keys::RecordKey;

/// Keys around those of answers: shorter, longer, of other spaces; few numbers, so that they meet.
fn any_key() -> impl Strategy<Value = Bytes> {
    let number = prop_oneof![0_u64..40, Just(u64::MAX), Just(u64::MAX - 1)];
    let answer = |space: u8, session: u64, sequence: u64, length: usize| {
        let mut bytes = vec![space];
        bytes.extend_from_slice(&session.to_be_bytes());
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.push(0);
        bytes.truncate(length);
        Bytes::from(bytes)
    };
    let space = prop_oneof![1 => Just(0x20_u8), 6 => Just(0x21), 1 => Just(0x22)];
    let session = prop_oneof![0_u64..3, Just(u64::MAX)];
    let length = prop_oneof![6 => Just(ANSWER_KEY_BYTES), 1 => 0..=ANSWER_KEY_BYTES + 1];
    (space, session, number, length).prop_map(move |(space, session, sequence, length)| {
        answer(space, session, sequence, length)
    })
}

fn any_change() -> impl Strategy<Value = Option<Change>> {
    let value = || any::<u8>().prop_map(|byte| Bytes::from(vec![byte]));
    prop_oneof![
        value().prop_map(|value| Some(Change::Put(value))),
        value().prop_map(|value| Some(Change::Insert(value))),
        Just(Some(Change::Delete)),
        Just(None),
    ]
}

fn list<'a>(changes: impl Iterator<Item = (KeyBytes<'a>, &'a Change)>) -> Vec<(Bytes, Change)> {
    changes.map(|(key, change)| (key.to_bytes(), change.clone())).collect()
}

/// Answers' keys are written here without [`RecordKey`], which is where their layout is set.
#[test]
fn the_keys_of_answers_are_those_of_their_records() {
    for (session_id, sequence) in [(0, 0), (1, 2), (u64::MAX, 3), (4, u64::MAX)] {
        let bytes = RecordKey::SessionAnswer { session_id, sequence }.encode();
        let key = Key::Answer { session_id, sequence };
        assert_eq!(key.bytes().to_bytes(), bytes);
        assert_eq!(Key::from(bytes), key);
    }
}

proptest! {
    /// From outside it is an ordered map of bytes.
    #[test]
    fn it_is_like_one_ordered_map(
        steps in proptest::collection::vec((any_key(), any_change()), 0..200),
        ranges in proptest::collection::vec((any_key(), any_key()), 0..20),
    ) {
        let mut model = BTreeMap::new();
        let mut changes = Changes::new();
        for (key, change) in steps {
            let before = model.get(&key).cloned();
            prop_assert_eq!(changes.get(&key), before.as_ref());
            let mut seen = None;
            changes.update(key.clone().into(), |asked, found| {
                seen = Some((Bytes::copy_from_slice(asked), found.cloned()));
                change.clone()
            });
            prop_assert_eq!(seen, Some((key.clone(), before)));
            match change {
                Some(change) => drop(model.insert(key, change)),
                None => drop(model.remove(&key)),
            }
            prop_assert_eq!(changes.len(), model.len());
            prop_assert_eq!(changes.is_empty(), model.is_empty());
        }
        let all: Vec<_> = model.clone().into_iter().collect();
        prop_assert_eq!(list(changes.iter()), all.clone());
        for (start, end) in ranges {
            let expected: Vec<_> =
                all.iter().filter(|(key, _)| (&start..&end).contains(&key)).cloned().collect();
            prop_assert_eq!(list(changes.range(&start, &end)), expected);
        }
        let copy: Changes = all.iter().cloned().collect();
        prop_assert_eq!(&copy, &changes);
        let mut taken: Vec<_> =
            copy.into_iter().map(|(key, change)| (key.bytes().to_bytes(), change)).collect();
        taken.sort_by(|(one, _), (other, _)| one.cmp(other));
        prop_assert_eq!(taken, all.clone());
        for (key, _) in all {
            changes.remove(&key);
        }
        prop_assert_eq!(changes, Changes::new());
    }
}
