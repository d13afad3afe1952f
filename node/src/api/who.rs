//! Who calls, and whether it may.
//!
//! **Who** is found out once, where a call comes in: from a client certificate that the port has verified, or
//! from a token in the metadata, by this node's state. It is enough for nothing by itself: what the caller
//! may do is decided for a write where its entry is applied, by the state as of that entry (`machine::auth`),
//! and for a read by the very state that is read. So a node that is behind lets nobody do what has been
//! forbidden since; it may fail to know a token that was made a moment ago, and looks once more then, at a state
//! that is new enough.
//!
//! A stream's caller is found out with its first call ([`super::guest`]). Its token may be revoked meanwhile, which each
//! decision sees, and it may expire, which is looked at for each call. One who is not known is told so by the
//! answer to each call, and looked up again with the next.
//!
//! A caller is two ids, which are never used again in a cluster, but for a restore: that brings the users of the backup,
//! with the ids that they have there, and whoever had the same ones here was somebody else. So who was found out
//! before a restore is nobody after it ([`Who::known_at`]).

use std::{hint::black_box, time::Duration};

use http::HeaderMap;
use tally_proto::{reason, seeded_bugs, status::StatusBuilder, v1::CallStatus};
use tonic::{Code, metadata::MetadataMap};

use super::{
    Api, Call,
    status::{Kind, with_outcome},
};
#[cfg(feature = "seeded-bugs")]
use crate::machine::command::Action;
use crate::{
    audit::Line,
    consensus::{
        WhenFull,
        error::{NotProposed, ReadError},
        read::Level,
    },
    env::shares::Identity,
    machine::{
        auth::{
            Caller, Permissions, Scope,
            secret::{hash_secret, parse_token},
        },
        command::Owner,
        query,
        records::Meta,
        rights::{Need, NotKnown, Rights},
        users,
        view::View,
    },
    port::ClientName,
};

/// Metadata with the token, behind `Bearer`.
pub const AUTHORIZATION_HEADER: &str = "authorization";

/// Who calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who {
    /// The address that this node sees, which took the call. Nobody, for a call from within the process.
    pub from: Option<Owner>,
    /// The user, if it showed who it is.
    pub caller: Option<Caller>,
    /// When what it showed is over, by the wall clock; 0: never.
    expires_wall_ms: u64,
    /// The restore epoch by which the caller is known. A restore brings the backup's users, and the ids of these may be
    /// those that somebody else had here before, so the caller counts in this epoch alone. Nothing where an older
    /// release has forwarded the call.
    known_at: Option<u64>,
}

impl Who {
    /// Somebody at an address who showed nothing.
    pub fn at(from: Option<Owner>) -> Who {
        Who { from, ..Who::default() }
    }

    /// Who another node says has called it, and the restore epoch of what that node knows.
    pub(super) fn forwarded(caller: Caller, known_at: Option<u64>) -> Who {
        Who { caller: Some(caller), known_at, ..Who::default() }
    }

    /// The restore epoch by which the caller is known.
    pub(super) fn known_at(&self) -> Option<u64> {
        self.known_at
    }

    /// Whether the caller is known by a state of before a restore.
    pub(super) fn is_of_before(&self, restore_epoch: u64) -> bool {
        self.caller.is_some() && self.known_at.is_some_and(|epoch| epoch < restore_epoch)
    }

    /// Whose turn and whose share its calls take.
    pub fn identity(&self) -> Identity {
        Identity::of(self.caller, self.from)
    }
}

/// What a caller shows.
pub(super) struct Shown {
    name: Option<ClientName>,
    token: Option<String>,
}

impl Shown {
    pub(super) fn is_nothing(&self) -> bool {
        self.name.is_none() && self.token.is_none()
    }

    pub(super) fn of(metadata: &MetadataMap, name: Option<&ClientName>) -> Shown {
        let token = metadata.get(AUTHORIZATION_HEADER).map(|value| {
            let text = value.to_str().unwrap_or_default();
            let (scheme, token) = text.split_once(' ').unwrap_or_default();
            let is_bearer = scheme.eq_ignore_ascii_case("bearer");
            if is_bearer { token.trim().to_owned() } else { String::new() }
        });
        Shown { name: name.cloned(), token }
    }

    /// What is recorded of it: the id in its token, which is no secret, and the name in its certificate.
    pub(super) fn recorded(&self) -> (Option<u64>, Option<&str>) {
        let token = self.token.as_ref().and_then(|token| parse_token(token)).map(|(id, _)| id);
        (token, self.name.as_ref().map(|shown| shown.name.as_str()))
    }
}

/// How long a scraper waits for this node to find out about its token.
const WATCHER_PATIENCE: Duration = Duration::from_secs(2);

/// What is said of a token, or a certificate, whose time has passed.
const IS_OVER: &str = "its token or certificate is over";

/// Whether callers have to show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    /// They have to.
    WhoItIs,
    /// Authentication is off.
    Nobody,
}

/// Why somebody may not watch, in words.
#[derive(Debug)]
pub(crate) enum NotAllowed {
    /// It is not known who asks.
    Unknown(String),
    /// He lacks the permission.
    Denied(String),
}

/// What a call reads, as far as rights are concerned.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reads<'a> {
    /// These items.
    Items(Scope, &'a [String]),
    /// All items whose names begin with this.
    List(Scope, &'a str),
    /// Sessions, or the state of nodes.
    Monitor,
    /// Users, roles and tokens.
    Admin,
    /// What everybody may know who is somebody.
    Anything,
}

impl Api {
    /// Whether callers must show who they are, by what this node knows.
    pub(super) fn asks_who(&self) -> bool {
        self.node.authentication || self.is_enabled()
    }

    /// By what this node knows authentication is off, and it is to serve nobody then.
    pub(super) fn serves_nobody(&self) -> bool {
        self.node.authentication && !self.is_enabled()
    }

    fn is_enabled(&self) -> bool {
        self.consensus.cluster_id().asks_who()
    }

    /// Finds out who calls. Refused if it must show who it is and does not.
    pub(super) async fn identify(
        &self,
        call: &Call,
        kind: Kind,
        from: Option<Owner>,
        shown: &Shown,
    ) -> Result<Who, CallStatus> {
        let anybody = Who::at(from);
        if self.serves_nobody() {
            self.learn_whether_enabled(call, kind).await?;
        }
        if shown.is_nothing() {
            return match self.asks_who() {
                false => Ok(anybody),
                true => {
                    Err(self.unauthenticated(call, kind, "it shows no token and no certificate"))
                }
            };
        }
        // The epoch first: it is never ahead of the state.
        let look = || {
            let known_at = Some(self.consensus.cluster_id().restore_epoch());
            let found = self.look_up(shown, &self.consensus.state().view());
            found.map(|(caller, expires_wall_ms)| Who {
                caller: Some(caller),
                expires_wall_ms,
                known_at,
                ..anybody
            })
        };
        let mut found = look();
        if found.is_err() {
            // This node may be behind, also where it believes that nobody asks: it may not have heard yet of the
            // token, nor that authentication was switched on. The round is shared by all who wait.
            let level = Level::Linearizable;
            match self.consensus.reads().permit(&level, call.deadline).await {
                Ok(_) => found = look(),
                // Then it can't say that there is no such token: one that was just made would be refused for
                // good by who should have been asked again. (A read that needs no quorum goes on, where by its
                // state everybody may read.)
                Err(error) if kind == Kind::Write || self.asks_who() => {
                    return Err(self.can_not_say(call, kind, &error));
                }
                Err(_) => {}
            }
        }
        match found {
            Ok(who) => {
                self.still_counts(call, kind, &who)?;
                Ok(who)
            }
            Err(_) if !self.asks_who() => Ok(anybody),
            Err(why) => Err(self.unauthenticated(call, kind, why)),
        }
    }

    /// This node asks who calls, and by its state nobody is asked. That refuses a caller for good, so it must be so
    /// in the cluster and not only here: a node may be behind, and a cluster that begins with authentication has it
    /// from the entry on that founds it. Its first token is in the file before, for whoever waits for that file.
    async fn learn_whether_enabled(&self, call: &Call, kind: Kind) -> Result<(), CallStatus> {
        let level = Level::Linearizable;
        let round = self.consensus.reads().permit(&level, call.deadline).await.map(drop);
        if let Err(error) = round {
            return Err(self.can_not_say(call, kind, &error));
        }
        if !self.consensus.cluster_id().wait(call.deadline).await {
            return Err(self.can_not_say(call, kind, &ReadError::Deadline));
        }
        if self.is_enabled() {
            return Ok(());
        }
        // What is switched off decides nothing in apply, so nobody is let in.
        let why = "this node asks for authentication, and in its cluster that is switched off: `tally auth enable` at \
                   a node that does not ask for it";
        Err(self.unauthenticated(call, kind, why))
    }

    /// Refuses who has shown something that is over by now.
    pub(super) fn still_counts(
        &self,
        call: &Call,
        kind: Kind,
        who: &Who,
    ) -> Result<(), CallStatus> {
        if self.is_over(who) && self.asks_who() {
            return Err(self.unauthenticated(call, kind, IS_OVER));
        }
        Ok(())
    }

    /// Whether what it has shown is over by now.
    fn is_over(&self, who: &Who) -> bool {
        who.expires_wall_ms != 0 && who.expires_wall_ms <= self.consensus.clock().wall_ms()
    }

    /// Whom an entry is to name: nobody, if what the caller showed is over, or it is known of before a restore. This
    /// node may only not have heard yet that authentication is on, and in apply nothing is ever over.
    pub(super) fn caller(&self, who: &Who) -> Option<Caller> {
        who.caller.filter(|_| !self.is_over(who) && !self.is_of_before(who))
    }

    /// Whether the caller is known by a state of before a restore, as far as this node has applied its log.
    pub(super) fn is_of_before(&self, who: &Who) -> bool {
        who.is_of_before(self.consensus.cluster_id().restore_epoch())
    }

    /// This node could not find out whether it knows the caller.
    pub(super) fn can_not_say(&self, call: &Call, kind: Kind, error: &ReadError) -> CallStatus {
        let refusal = match error {
            _ if kind == Kind::Read => return self.read_error(call, error),
            ReadError::ShuttingDown => NotProposed::ShuttingDown,
            ReadError::Deadline => NotProposed::Deadline,
            ReadError::NoQuorum { waited_ms } => NotProposed::NoQuorum { waited_ms: *waited_ms },
            _ => NotProposed::NoQuorum { waited_ms: 0 },
        };
        self.write_error(call, &refusal.into(), false)
    }

    /// The caller, and when its token, or its certificate, is over. A token counts more than a certificate: a proxy may
    /// have one, too.
    fn look_up<V: View + ?Sized>(
        &self,
        shown: &Shown,
        view: &V,
    ) -> Result<(Caller, u64), &'static str> {
        if let Some(token) = &shown.token {
            let unknown = "its token is unknown, or was revoked";
            let (id, secret) = parse_token(token).ok_or("what it shows is no token of Tally's")?;
            let record = users::token(view, id);
            // The same work whether there is such a token or not.
            let hash = record.as_ref().map_or([0; 32], |record| record.secret_hash);
            let is_right = equal(&hash, &hash_secret(&secret));
            let record = record.filter(|_| is_right).ok_or(unknown)?;
            return Ok((Caller { user: record.user, token: id }, record.expires_wall_time_ms));
        }
        let ClientName { name, not_after_ms } = shown.name.as_ref().ok_or("it shows nothing")?;
        let caller = users::caller_named(view, name);
        Ok((caller.ok_or("no user has the name in its certificate")?, *not_after_ms))
    }

    /// Whether a read is allowed by the state that is read; nothing is looked at before.
    pub(super) fn may_read<V: View + ?Sized>(
        &self,
        call: &Call,
        view: &V,
        reads: Reads<'_>,
    ) -> Result<(), CallStatus> {
        let meta = query::meta(view);
        let shows_items = matches!(reads, Reads::Items(..) | Reads::List(..));
        if shows_items && meta.restore.is_under_way() {
            return Err(self.restore_under_way(call, Kind::Read));
        }
        let Some(rights) = self.rights(call, Kind::Read, view, &meta)? else { return Ok(()) };
        let read = |scope, name| Need { scope, name, permissions: Permissions::READ };
        let denied =
            |lacks: &str, on: String| Err(self.denied(call, Kind::Read, &rights, lacks, &on));
        match reads {
            Reads::Items(scope, names) => {
                match names.iter().find(|name| !rights.allow(read(scope, name))) {
                    Some(name) => denied("read", format!("{scope} {name:?}")),
                    None => Ok(()),
                }
            }
            Reads::List(scope, prefix) if !rights.may_list(scope, prefix) => {
                denied("read", format!("every {scope} that begins with {prefix:?}"))
            }
            Reads::Monitor if !rights.may_monitor() => {
                denied("monitor", "nodes and sessions".into())
            }
            Reads::Admin if !rights.is_admin() => denied("admin", "users, roles and tokens".into()),
            Reads::List(..) | Reads::Monitor | Reads::Admin | Reads::Anything => Ok(()),
        }
    }

    /// Whether a change of the cluster is allowed, by what this node knows.
    pub(super) fn may_operate(&self, call: &Call) -> Result<(), CallStatus> {
        let view = self.consensus.state().view();
        match self.rights(call, Kind::Write, &view, &query::meta(&view))? {
            Some(rights) if !rights.is_admin() => {
                Err(self.denied(call, Kind::Write, &rights, "admin", "the cluster"))
            }
            _ => Ok(()),
        }
    }

    /// Whether somebody who asks over the port for scrapers may see how the node is, or change how it works. Who that
    /// is is told to a line of the audit log.
    pub(crate) async fn may_watch(
        &self,
        headers: &HeaderMap,
        name: Option<&ClientName>,
        changes: bool,
        line: Option<&mut Line>,
    ) -> Result<Asks, NotAllowed> {
        let kind = if changes { Kind::Write } else { Kind::Read };
        let call = self.call(Some(WATCHER_PATIENCE), "", WhenFull::Refuse);
        let shown = Shown::of(&MetadataMap::from_headers(headers.clone()), name);
        let found = self.identify(&call, kind, None, &shown).await;
        if let Some(line) = line {
            self.who_fields(line, found.as_ref().ok().map(|who| who.caller), shown.recorded());
        }
        let may = || {
            let call = Call { who: found?, ..call };
            match changes {
                true => self.may_operate(&call),
                false => self.may_read(&call, &self.consensus.state().view(), Reads::Monitor),
            }
        };
        may().map_err(|refused| match Code::from_i32(refused.code) {
            Code::PermissionDenied => NotAllowed::Denied(refused.message),
            _ => NotAllowed::Unknown(refused.message),
        })?;
        Ok(if self.asks_who() { Asks::WhoItIs } else { Asks::Nobody })
    }

    /// What a caller may do as of a state, whose record of the whole is at hand; nothing while authentication is off.
    pub(super) fn rights<V: View + ?Sized>(
        &self,
        call: &Call,
        kind: Kind,
        view: &V,
        meta: &Meta,
    ) -> Result<Option<Rights>, CallStatus> {
        if !meta.auth.enabled {
            return Ok(None);
        }
        if self.is_over(&call.who) && !seeded_bugs::is_on("over-is-asked-once") {
            return Err(self.unauthenticated(call, kind, IS_OVER));
        }
        if call.who.is_of_before(meta.restore_epoch) {
            // The backup may know its user and token as others', or as the same: who asks again is looked up again.
            return Err(self.restore_under_way(call, kind));
        }
        Rights::of(view, call.who.caller).map(Some).map_err(|NotKnown| {
            self.unauthenticated(call, kind, "its user or token was removed, or it shows none")
        })
    }

    fn unauthenticated(&self, call: &Call, kind: Kind, why: &str) -> CallStatus {
        let message = format!("the caller is not known: {why}");
        tracing::debug!(request = %call.request_id, why, "a caller is not known");
        let status = StatusBuilder::new(Code::Unauthenticated, reason::UNAUTHENTICATED, message);
        self.without_state(call, with_outcome(status, kind, tally_proto::v1::Outcome::NotApplied))
    }

    fn denied(
        &self,
        call: &Call,
        kind: Kind,
        rights: &Rights,
        lacks: &str,
        on: &str,
    ) -> CallStatus {
        let message = format!("user {:?} lacks {lacks} on {on}", rights.name());
        let status = StatusBuilder::new(Code::PermissionDenied, reason::PERMISSION_DENIED, message);
        self.without_state(call, with_outcome(status, kind, tally_proto::v1::Outcome::NotApplied))
    }
}

#[cfg(feature = "seeded-bugs")]
impl Api {
    /// What a bug on purpose asks in place of the entry: this node's own rights, when the call comes in.
    pub(super) fn may_by_this_node(&self, call: &Call, action: &Action) -> Result<(), CallStatus> {
        let view = self.consensus.state().view();
        let rights = self.rights(call, Kind::Write, &view, &query::meta(&view))?;
        let Some(rights) = rights else { return Ok(()) };
        let needs: Vec<Need<'_>> = match action {
            Action::Single(operation) => vec![Need::of(operation)],
            Action::Apply(step) => step.operations.iter().map(Need::of).collect(),
            _ => Vec::new(),
        };
        match needs.into_iter().find(|need| !rights.allow(*need)) {
            Some(need) => Err(self.denied(call, Kind::Write, &rights, "it", need.name)),
            None => Ok(()),
        }
    }
}

/// In a time that does not depend on where they differ.
fn equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differences = one.iter().zip(other).fold(0, |sum, (one, other)| sum | (one ^ other));
    black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::auth::secret::SECRET_BYTES;

    #[test]
    fn hashes_are_equal_only_if_all_of_them_is() {
        let one = hash_secret(&[1; SECRET_BYTES]);
        for at in 0..32 {
            let mut other = one;
            other[at] ^= 0x80;
            assert!(!equal(&one, &other));
        }
        assert!(equal(&one, &one));
    }
}
