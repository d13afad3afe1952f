//! What "the same request" means: a digest over a canonical encoding of the decoded action.
//!
//! A retry may come from another release of the client library, through another node, in other
//! wire bytes; so the digest is not taken over wire bytes nor over the log's encoding, but over
//! the encoding defined here. It is stored in sessions and idempotency records and thus
//! **frozen**: a changed encoding would make a retry look like another request. A new kind of
//! action gets a new tag; the meaning of an old tag never changes.
//!
//! The encoding, version 1:
//! - the byte 1, then the action;
//! - every enum begins with its tag, one byte, as listed in the code below, and for operations beside each
//!   of them ([`super::operation`]);
//! - `u64`, `i64` and `u128` are big-endian; a bool is one byte, 0 or 1;
//! - an optional value is 0, or 1 and the value;
//! - text and bytes are a big-endian `u64` length, then the bytes;
//! - a list is a big-endian `u64` count, then the elements; fields come in the order of
//!   [`super::command`].
//!
//! No encoding is a prefix of another and every length is in front, so two different actions never
//! share one.

use super::{
    canonical::{Canonical, Fingerprint},
    command::{Action, ApplyStep, Comparison, Condition, Test},
    item::Target,
};

/// Version of the canonical encoding, its first byte.
const CANONICAL_VERSION: u8 = 1;

impl Fingerprint {
    /// The digest of an action.
    pub fn of(action: &Action) -> Fingerprint {
        let mut canonical = Canonical::new();
        canonical.tag(CANONICAL_VERSION);
        canonical.action(action);
        Fingerprint(canonical.finish())
    }
}

impl Canonical {
    fn action(&mut self, action: &Action) {
        match action {
            Action::Single(operation) => {
                self.tag(1);
                operation.canonical(self);
            }
            Action::Apply(step) => {
                self.tag(2);
                self.step(step);
            }
            Action::OpenSession { idle_timeout_ms } => {
                self.tag(3);
                self.u64(*idle_timeout_ms);
            }
            Action::RenewSession { session_id, lowest_unanswered } => {
                self.tag(4);
                self.u64(*session_id);
                self.u64(*lowest_unanswered);
            }
            Action::CloseSession { session_id } => {
                self.tag(5);
                self.u64(*session_id);
            }
            Action::Tick => self.tag(6),
            // Who opens, and how much it may hold, is not what is asked for.
            Action::OpenOwnedSession { idle_timeout_ms, .. } => {
                self.tag(8);
                self.u64(*idle_timeout_ms);
            }
            Action::CreateCluster { cluster_id, settings } => {
                self.tag(7);
                self.put(&cluster_id.to_be_bytes());
                self.u64(settings.sessions_max);
                self.u64(settings.session_idle_ms);
                self.u64(settings.idempotency_window_ms);
                self.u64(settings.idempotency_bytes_max);
            }
            // None of them comes under a number or a key that is looked up, so nobody compares them.
            Action::Auth(_) => self.tag(9),
            Action::CreateSecureCluster { .. } => self.tag(10),
            Action::Restore(_) => self.tag(11),
            Action::NodeId(_) => self.tag(12),
            Action::Quota(_) => self.tag(13),
            Action::Compare => self.tag(14),
            Action::RaiseVersion { .. } => self.tag(15),
            Action::CreateClusterAt { .. } => self.tag(16),
        }
    }

    fn step(&mut self, step: &ApplyStep) {
        let ApplyStep { conditions, operations, else_operations } = step;
        self.u64(conditions.len() as u64);
        for condition in conditions {
            self.condition(condition);
        }
        for operations in [operations, else_operations] {
            self.u64(operations.len() as u64);
            for operation in operations {
                operation.canonical(self);
            }
        }
    }

    fn condition(&mut self, condition: &Condition) {
        match &condition.target {
            Target::Counter(name) => {
                self.tag(1);
                self.text(name);
            }
            Target::Key(key) => {
                self.tag(2);
                self.text(key);
            }
        }
        match &condition.test {
            Test::Exists(exists) => {
                self.tag(1);
                self.bool(*exists);
            }
            Test::Revision(comparison, revision) => {
                self.tag(2);
                self.comparison(*comparison);
                self.u64(*revision);
            }
            Test::CounterValue(comparison, value) => {
                self.tag(3);
                self.comparison(*comparison);
                self.i64(*value);
            }
            Test::KeyValue(comparison, value) => {
                self.tag(4);
                self.comparison(*comparison);
                self.bytes(value);
            }
        }
    }

    fn comparison(&mut self, comparison: Comparison) {
        self.tag(match comparison {
            Comparison::Equal => 1,
            Comparison::NotEqual => 2,
            Comparison::Less => 3,
            Comparison::LessOrEqual => 4,
            Comparison::Greater => 5,
            Comparison::GreaterOrEqual => 6,
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use sha2::{Digest, Sha256};

    use super::super::command::*;

    fn bounds(floor: Option<i64>, ceiling: Option<i64>) -> Bounds {
        Bounds { floor, ceiling }
    }

    fn actions() -> Vec<Action> {
        let name = || "stock".to_owned();
        let add = |delta, bounds, on_violation, must_exist| {
            Operation::CounterAdd(CounterAdd {
                name: name(),
                delta,
                bounds,
                on_violation,
                must_exist,
            })
        };
        let put = |value: &'static [u8], expect| {
            Operation::KeyPut(KeyPut { key: name(), value: Bytes::from_static(value), expect })
        };
        let cas = |expect| {
            Operation::CounterCompareAndSet(CounterCompareAndSet { name: name(), expect, value: 7 })
        };
        let none = Bounds::default();
        let condition = |target, test| Condition { target, test };
        let step = |conditions, operations, else_operations| {
            Action::Apply(ApplyStep { conditions, operations, else_operations })
        };
        let singles = [
            add(1, none, OnViolation::Reject, false),
            add(-1, none, OnViolation::Reject, false),
            add(1, bounds(Some(0), None), OnViolation::Reject, false),
            add(1, bounds(None, Some(0)), OnViolation::Reject, false),
            add(1, none, OnViolation::Saturate, false),
            add(1, none, OnViolation::Reject, true),
            Operation::CounterGet(CounterGet { name: name() }),
            Operation::CounterSet(CounterSet { name: name(), value: 1 }),
            cas(CounterExpectation::Value(1)),
            cas(CounterExpectation::Revision(1)),
            cas(CounterExpectation::Absent),
            Operation::CounterDelete(CounterDelete { name: name() }),
            Operation::CounterConfigure(CounterConfigure {
                name: name(),
                bounds: bounds(Some(1), Some(2)),
            }),
            put(b"", KeyExpectation::Any),
            put(b"\x01", KeyExpectation::Absent),
            put(b"", KeyExpectation::Present),
            put(b"", KeyExpectation::Revision(1)),
            put(b"", KeyExpectation::Value(Bytes::from_static(b"x"))),
            Operation::KeyGet(KeyGet { key: name() }),
            Operation::KeyDelete(KeyDelete { key: name(), expect: KeyExpectation::Any }),
        ];
        let get = || Operation::CounterGet(CounterGet { name: name() });
        let counter = || Target::Counter(name());
        let mut actions: Vec<Action> = singles.into_iter().map(Action::Single).collect();
        actions.extend([
            step(vec![], vec![], vec![]),
            step(vec![], vec![get()], vec![]),
            step(vec![], vec![], vec![get()]),
            step(vec![condition(counter(), Test::Exists(true))], vec![get()], vec![]),
            step(vec![condition(Target::Key(name()), Test::Exists(true))], vec![get()], vec![]),
            step(
                vec![condition(counter(), Test::Revision(Comparison::Less, 3))],
                vec![get()],
                vec![],
            ),
            step(
                vec![condition(counter(), Test::CounterValue(Comparison::GreaterOrEqual, 3))],
                vec![get()],
                vec![],
            ),
            step(
                vec![condition(
                    Target::Key(name()),
                    Test::KeyValue(Comparison::NotEqual, Bytes::from_static(b"x")),
                )],
                vec![get()],
                vec![],
            ),
            Action::OpenSession { idle_timeout_ms: 1 },
            Action::RenewSession { session_id: 1, lowest_unanswered: 2 },
            Action::CloseSession { session_id: 1 },
            Action::Tick,
            Action::CreateCluster { cluster_id: 1, settings: Settings::default() },
            Action::OpenOwnedSession {
                idle_timeout_ms: 1,
                owner: "10.0.0.7".parse().unwrap(),
                share_percent: 50,
            },
        ]);
        actions
    }

    #[test]
    fn different_actions_have_different_digests() {
        let actions = actions();
        for (index, one) in actions.iter().enumerate() {
            for other in &actions[..index] {
                assert_ne!(Fingerprint::of(one), Fingerprint::of(other), "{one} and {other}");
            }
        }
    }

    /// The encoding written out by hand: what another implementation would have to produce.
    #[test]
    fn the_encoding_is_the_documented_one() {
        let add = Operation::CounterAdd(CounterAdd {
            name: "a".into(),
            delta: -2,
            bounds: bounds(Some(0), None),
            on_violation: OnViolation::Saturate,
            must_exist: true,
        });
        let canonical: &[&[u8]] = &[
            &[1, 1, 1],                      // version, Single, CounterAdd
            &[0, 0, 0, 0, 0, 0, 0, 1, b'a'], // name
            &(-2i64).to_be_bytes(),          // delta
            &[1, 0, 0, 0, 0, 0, 0, 0, 0],    // floor
            &[0],                            // no ceiling
            &[2, 1],                         // Saturate, must exist
        ];
        let digest = Sha256::digest(canonical.concat());
        assert_eq!(Fingerprint::of(&Action::Single(add)).0, <[u8; 32]>::from(digest));
    }

    /// Pins every tag: a failure here means that a retry after an upgrade is taken for another
    /// request. Never change an expectation; add to the list.
    #[test]
    fn digests_are_frozen() {
        let pinned: Vec<&str> = include_str!("fingerprints.txt").lines().collect();
        let digests: Vec<String> = actions()
            .iter()
            .map(|action| {
                let digest = Fingerprint::of(action);
                let hex: String = digest.0[..16].iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{hex} {action}")
            })
            .collect();
        assert_eq!(digests, pinned, "expected file:\n{}", digests.join("\n"));
    }
}
