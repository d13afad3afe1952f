//! What answers say in one word: the promise that was kept, a node's role, what proves an age. And how
//! durations are written in JSON.
//!
//! On the wire these are numbers, and a newer node may send one that this release has no word for. It is
//! kept as it came: a caller that does not know what it stands for can still tell two apart, and relies on
//! nothing.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};
use tally_proto::v1;

/// An enum of an answer, its words as they are printed and in JSON, and what it is on the wire.
macro_rules! words {
    ($(#[$about:meta])* $name:ident = $wire:ident { $($(#[$what:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[non_exhaustive]
        pub enum $name {
            /// Nothing was said.
            #[default]
            Unspecified,
            $($(#[$what])* $variant,)*
            /// The number of something that a newer node said and this release has no word for. Printed as
            /// `UNKNOWN(7)`. Rely on nothing.
            Unknown(i32),
        }

        impl $name {
            pub(crate) fn of(number: i32) -> Self {
                match v1::$wire::try_from(number) {
                    Ok(v1::$wire::Unspecified) => Self::Unspecified,
                    $(Ok(v1::$wire::$variant) => Self::$variant,)*
                    Err(_) => Self::Unknown(number),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.pad($word),)*
                    Self::Unspecified => f.pad("UNSPECIFIED"),
                    Self::Unknown(number) => f.pad(&format!("UNKNOWN({number})")),
                }
            }
        }

        /// As it is printed.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

words! {
    /// The promise that an answer keeps, as its [`Header`](crate::Header) says. What a read asks for is a
    /// [`ReadLevel`](crate::ReadLevel).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::Consistency;
    ///
    /// let hits = client.counter("hits").get().await?;
    /// assert_eq!(hits.header.consistency, Consistency::Linearizable);
    /// assert_eq!(Consistency::Linearizable.to_string(), "LINEARIZABLE");
    /// # Ok(()) }
    /// ```
    Consistency = ReadLevel {
        /// Every write that was acknowledged before is in it.
        Linearizable = "LINEARIZABLE",
        /// No older than was asked for.
        Bounded = "BOUNDED",
        /// At least the state of the token that was asked for.
        Session = "SESSION",
        /// Some past state.
        Local = "LOCAL",
    }
}

words! {
    /// Role of a node in the Raft cluster.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::Role;
    ///
    /// let change = client.counter("hits").add(1).await?;
    /// assert_eq!(change.header.role, Role::Leader);
    /// assert_eq!(Role::Leader.to_string(), "leader");
    /// # Ok(()) }
    /// ```
    Role = Role {
        /// It orders all writes of its term.
        Leader = "leader",
        /// A voter that is not leader, candidates included.
        Follower = "follower",
        /// It receives the log, and has no vote.
        Learner = "learner",
    }
}

words! {
    /// What proves the greatest age of a state ([`Header::staleness_max`](crate::Header)).
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::StalenessGround;
    ///
    /// let hits = client.counter("hits").get().await?;
    /// assert_eq!(hits.header.staleness_ground, Some(StalenessGround::ReadIndex));
    /// assert_eq!(StalenessGround::ReadIndex.to_string(), "READ_INDEX");
    /// # Ok(()) }
    /// ```
    StalenessGround = StalenessGround {
        /// A quorum round that began after the question arrived.
        ReadIndex = "READ_INDEX",
        /// A read index that was fetched earlier and has been applied since; the age counts from when it was
        /// asked for, by the node's own clock.
        EarlierReadIndex = "EARLIER_READ_INDEX",
    }
}

/// Whole milliseconds, which is what fields named `…_ms` hold.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A duration in JSON: whole milliseconds, under a name that ends in `_ms`.
pub(crate) fn as_millis<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(millis(*duration))
}

/// A duration in JSON, or null.
pub(crate) fn some_as_millis<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(millis).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_this_release_does_not_know_is_kept() {
        assert_eq!(Role::of(1), Role::Leader);
        assert_eq!(Role::of(0), Role::default());
        assert_eq!(Role::of(9), Role::Unknown(9));
        assert_eq!(Consistency::of(77).to_string(), "UNKNOWN(77)");
        assert_eq!(serde_json::to_value(Consistency::of(77)).unwrap(), "UNKNOWN(77)");
        assert_ne!(StalenessGround::of(8), StalenessGround::of(9));
    }

    #[test]
    fn words_are_those_of_the_wire_and_fill_a_column() {
        for number in 1..=4 {
            let wire = v1::ReadLevel::try_from(number).unwrap().as_str_name();
            assert_eq!(format!("READ_LEVEL_{}", Consistency::of(number)), wire);
        }
        for number in 1..=2 {
            let wire = v1::StalenessGround::try_from(number).unwrap().as_str_name();
            assert_eq!(format!("STALENESS_GROUND_{}", StalenessGround::of(number)), wire);
        }
        assert_eq!(format!("{:>10}|", Role::Leader), "    leader|");
        assert_eq!(serde_json::to_value(Role::Follower).unwrap(), "follower");
    }
}
