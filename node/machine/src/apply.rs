//! Applying a log entry: each command through the exactly-once rules, then housekeeping.

use std::rc::Rc;

use tally_seeded_bugs as seeded_bugs;

use super::{
    auth::{AuthCommand, Permissions},
    codec,
    command::{Action, Answer, Batch, Command, Refusal, Reply},
    gate,
    idempotency::Keyed,
    keys::key_of_user,
    limits::{HOUSEKEEPING_ITEMS_BASE, HOUSEKEEPING_ITEMS_PER_COMMAND, SESSION_WINDOW},
    records::Settings,
    rights::{Need, NotKnown, Rights},
    session::{Share, Standing},
    version::FormatVersion,
    view::{Overlay, View},
    work::Work,
};
#[cfg(feature = "seeded-bugs")]
use crate::bugs;

/// Applies one log entry and returns the reply to each of its commands, in order.
///
/// `log_index` is the index of the entry: it becomes the id of a session that the entry opens.
/// What changed is in the overlay; it and the fact that the entry is applied must become durable
/// together.
///
/// ```
/// use tally_machine::{
///     apply, memory::MemoryView, query,
///     command::{Action, Batch, Command, CounterSet, Operation},
///     view::{Overlay, Writes},
/// };
///
/// let mut state = MemoryView::default();
/// let set = Operation::CounterSet(CounterSet { name: "stock".into(), value: 5 });
/// let command = Command {
///     session: None,
///     idempotency: None,
///     fingerprint: Default::default(),
///     action: Action::Single(set),
///     caller: None,
/// };
/// let batch = Batch { log_time_ms: 0, wall_time_ms: 0, commands: vec![command] };
///
/// let mut writes = Writes::default();
/// let replies = apply(&mut Overlay::new(&state, &mut writes), 1, &batch);
/// state.commit(writes);
///
/// assert_eq!(replies[0].revision, 1);
/// assert_eq!(query::counter(&state, "stock").unwrap().value, 5);
/// ```
///
/// # Panics
///
/// If the state holds a record that can't be read, or if the entry opens two sessions. Neither
/// can be answered by anything but stopping: the other replicas have something else to say.
pub fn apply<V: View + ?Sized>(
    overlay: &mut Overlay<'_, V>,
    log_index: u64,
    batch: &Batch,
) -> Vec<Reply> {
    let items = HOUSEKEEPING_ITEMS_BASE + HOUSEKEEPING_ITEMS_PER_COMMAND * batch.commands.len();
    apply_with(overlay, log_index, batch, items)
}

/// [`apply`] with another budget for housekeeping: no answer depends on it, which tests check, but for the entry from
/// which on a new quota refuses ([`super::quota`]).
pub(super) fn apply_with<V: View + ?Sized>(
    overlay: &mut Overlay<'_, V>,
    log_index: u64,
    batch: &Batch,
    housekeeping_items: usize,
) -> Vec<Reply> {
    assert!(
        codec::opens_at_most_one_session(batch),
        "log entry {log_index} opens two sessions, which would share its index as their id"
    );
    let wall_time_ms = batch.wall_time_ms;
    #[cfg(feature = "seeded-bugs")]
    let wall_time_ms = match seeded_bugs::is_on("wall-clock-in-apply") {
        true => bugs::wall_ms(),
        false => wall_time_ms,
    };
    let mut work =
        Work::new(overlay, log_index, batch.log_time_ms, wall_time_ms, housekeeping_items);
    let replies = work.commands(&batch.commands);
    work.keep_house(housekeeping_items);
    work.finish();
    #[cfg(feature = "seeded-bugs")]
    if seeded_bugs::is_on("one-replica-applies-otherwise") {
        bugs::spoil_at_one_node(overlay, log_index);
    }
    replies
}

impl<V: View + ?Sized> Work<'_, '_, V> {
    fn commands(&mut self, commands: &[Command]) -> Vec<Reply> {
        #[cfg(feature = "seeded-bugs")]
        if seeded_bugs::is_on("hash-order-in-apply") {
            return bugs::in_hash_order(self, commands);
        }
        commands.iter().map(|command| self.command(command)).collect()
    }

    pub(crate) fn command(&mut self, command: &Command) -> Reply {
        let rights = match self.admit(command) {
            Ok(rights) => rights,
            // Not remembered: whoever it was has no session and no keys.
            Err(refusal) => return self.reply(Err(refusal)),
        };
        let mut reply = self.decide(command, rights.as_deref());
        let as_it_was = reply.replayed && seeded_bugs::is_on("replay-shows-as-then");
        if let Some(rights) = rights
            && !as_it_was
        {
            rights.redact(&command.action, &mut reply);
        }
        reply
    }

    /// What the caller may do; nothing if it needs no rights: authentication is off, or the command is one
    /// that nodes ask for by themselves, and that no request becomes.
    fn admit(&mut self, command: &Command) -> Result<Option<Rc<Rights>>, Refusal> {
        let is_own = command.action.is_own();
        let (needed, version) = (gate::needed(&command.action), self.meta.version);
        if needed > version && !seeded_bugs::is_on("gate-open") {
            return Err(Refusal::UpgradeNotFinalized { needed, version });
        }
        // It comes to nothing and leaves no trace: what is remembered under its key may be restored yet.
        let is_restore = matches!(command.action, Action::Restore(_));
        if self.meta.restore.is_under_way() && !is_own && !is_restore {
            return Err(Refusal::RestoreUnderWay);
        }
        if !self.meta.auth.enabled || is_own {
            return Ok(None);
        }
        let rights = self.rights(command.caller).map_err(|NotKnown| Refusal::Unauthenticated)?;
        if matches!(command.action, Action::Auth(_)) && !rights.is_admin() {
            return Err(denied(&rights, "admin", "users, roles and tokens"));
        }
        if is_restore && !rights.is_admin() {
            return Err(denied(&rights, "admin", "the cluster"));
        }
        if matches!(command.action, Action::Quota(_)) && !rights.is_admin() {
            return Err(denied(&rights, "admin", "quotas"));
        }
        Ok(Some(rights))
    }

    fn decide(&mut self, command: &Command, rights: Option<&Rights>) -> Reply {
        let user = rights.map_or(0, Rights::user);
        match &command.action {
            Action::Single(_) | Action::Apply(_) => self.exactly_once(command, rights),
            // What follows is harmless when it is done twice, so it is neither looked up nor
            // remembered, even if it carries a number or key: opening twice leaves a session
            // behind that ends by itself, the others change nothing the second time.
            Action::OpenSession { idle_timeout_ms } => {
                let result = self.open_session(*idle_timeout_ms, None, user);
                self.reply(result)
            }
            Action::OpenOwnedSession { idle_timeout_ms, owner, share_percent } => {
                let share = Share { owner: *owner, percent: *share_percent };
                let result = self.open_session(*idle_timeout_ms, Some(share), user);
                self.reply(result)
            }
            Action::RenewSession { session_id, lowest_unanswered } => {
                let result = self.renew_session(*session_id, *lowest_unanswered, user);
                self.reply(result)
            }
            Action::CloseSession { session_id } => {
                let of = (!rights.is_some_and(Rights::is_admin)).then_some(user);
                let existed = self.close_session(*session_id, of);
                self.reply(Ok(Answer::SessionClosed { existed }))
            }
            Action::Tick | Action::Compare => self.reply(Ok(Answer::Done)),
            Action::CreateCluster { cluster_id, settings } => {
                self.create_cluster(*cluster_id, settings, None, FormatVersion::FIRST)
            }
            Action::CreateSecureCluster { cluster_id, settings, secret_hash } => {
                self.create_cluster(*cluster_id, settings, Some(*secret_hash), FormatVersion::FIRST)
            }
            Action::CreateClusterAt { cluster_id, settings, secret_hash, version } => {
                self.create_cluster(*cluster_id, settings, *secret_hash, *version)
            }
            // It never falls: proposed again, or by a leader of before, it changes nothing.
            Action::RaiseVersion { to } => {
                self.meta.version = self.meta.version.max(*to);
                self.reply(Ok(Answer::Done))
            }
            Action::Restore(step) => {
                let result = self.restore(step);
                self.reply(result)
            }
            Action::Auth(change) => {
                self.forget_rights();
                let result = self.change_auth(change);
                self.reply(result)
            }
            Action::NodeId(command) => {
                let answer = self.change_node_ids(command);
                self.reply(Ok(answer))
            }
            Action::Quota(change) => {
                let result = self.change_quotas(change);
                self.reply(result)
            }
        }
    }

    /// Only once: proposed again (by a second node, or after an unknown outcome) it must not change what promises
    /// already rest on.
    fn create_cluster(
        &mut self,
        cluster_id: u128,
        settings: &Settings,
        secret_hash: Option<[u8; 32]>,
        version: FormatVersion,
    ) -> Reply {
        if self.meta.cluster_id == 0 {
            self.meta.cluster_id = cluster_id;
            self.meta.settings = *settings;
            self.meta.version = version;
            if let Some(secret_hash) = secret_hash {
                let begin = AuthCommand::Begin { secret_hash };
                // In an empty state there is nothing that could be in its way.
                let enabled = self.change_auth(&begin);
                assert!(enabled.is_ok(), "the first change of users was refused: {enabled:?}");
            }
        }
        self.reply(Ok(Answer::Done))
    }

    /// Decides, in this order: the session has the number → its answer; the key is live → its
    /// answer, recorded under the session as well; the session is gone or does not admit the
    /// number → refused; else execute, and record under both.
    ///
    /// The key comes before the session's end, because its answer is a fact that outlives the
    /// session: a caller whose session has gone learns what became of its write.
    ///
    /// What the caller may do is asked when it is about to be executed. A number or key that has an answer
    /// belongs to this very user (`session.rs`, `idempotency.rs`), and that answer is a fact, also to one
    /// who may not do it any more: to say "not applied" of what was applied would be a lie. (What it may not
    /// read of it is left out by [`Rights::redact`].) A refusal for want of permission is not remembered: it
    /// leaves no trace, as the right may be given in the next moment. Nor is one of a quota, as there may be room in
    /// the next moment ([`Refusal::is_of_the_moment`]): whoever sends the same again wants it done then.
    fn exactly_once(&mut self, command: &Command, rights: Option<&Rights>) -> Reply {
        let user = rights.map_or(0, Rights::user);
        let standing = command.session.as_ref().map(|stamp| self.standing(stamp, user));
        if let Some(Standing::Answered(record)) = standing {
            if record.fingerprint != command.fingerprint {
                // Not remembered: the number has its answer, which stays.
                let sequence = command.session.as_ref().map_or(0, |stamp| stamp.sequence);
                return self.reply(Err(Refusal::SequenceReused { sequence }));
            }
            let reply = self.replay(record.reply);
            #[cfg(feature = "seeded-bugs")]
            if seeded_bugs::is_on("duplicate-answers-current") {
                return bugs::with_present_value(self, command, reply);
            }
            return reply;
        }
        let reply = match self.keyed(command, user) {
            Some(reply) => reply,
            None => {
                // Neither is remembered: the session is gone, the number is outside what it keeps, or the
                // caller may not do it.
                let refusal = self.refuse_by_session(command, standing.as_ref());
                let unasked = seeded_bugs::is_on("rights-at-receipt");
                let rights = rights.filter(|_| !unasked);
                if let Some(refusal) = refusal.or_else(|| forbid(command, rights?)) {
                    return self.reply(Err(refusal));
                }
                self.execute_and_remember_by_key(command, user)
            }
        };
        let forget = is_forgotten(&reply.result);
        if let (Some(stamp), Some(Standing::New)) = (&command.session, standing)
            && !forget
        {
            self.remember_by_session(stamp, command.fingerprint, &reply);
        }
        reply
    }

    /// What the idempotency key has to say, if it is live.
    fn keyed(&mut self, command: &Command, user: u64) -> Option<Reply> {
        let key = command.idempotency.as_ref()?;
        Some(match self.live_key(&key_of_user(&key.key, user), &command.fingerprint)? {
            Keyed::Same(reply) => self.replay(reply),
            Keyed::Other => self.reply(Err(Refusal::IdempotencyKeyReused { key: key.key.clone() })),
        })
    }

    /// Why the session does not let a command through that it has no answer for.
    fn refuse_by_session(&self, command: &Command, standing: Option<&Standing>) -> Option<Refusal> {
        let stamp = command.session.as_ref()?;
        let sequence = stamp.sequence;
        match *standing? {
            Standing::Gone => Some(Refusal::SessionExpired { session_id: stamp.session_id }),
            Standing::TooOld { watermark } => Some(Refusal::SequenceTooOld { sequence, watermark }),
            Standing::OutOfWindow { watermark } => {
                let window = SESSION_WINDOW;
                Some(Refusal::SequenceOutOfWindow { sequence, watermark, window })
            }
            Standing::New => None,
            Standing::Answered(_) => unreachable!("a number with an answer was replayed before"),
        }
    }

    /// Executes the command; a refusal leaves everything as it was.
    fn execute_and_remember_by_key(&mut self, command: &Command, user: u64) -> Reply {
        self.begin();
        let result = self.execute(&command.action);
        let stays = matches!(&result, Err(Refusal::Step { .. }))
            && seeded_bugs::is_on("refused-step-stays-half-done");
        if stays {
            self.commit();
            self.begin();
        } else if result.is_err() {
            self.roll_back();
            self.begin();
        }
        let mut reply = self.reply(result);
        let forget = is_forgotten(&reply.result);
        if let Some(key) = &command.idempotency
            && !forget
        {
            let window_ms = key.window_ms;
            let key = key_of_user(&key.key, user);
            match self.remember_by_key(&key, window_ms, command.fingerprint, &reply) {
                Ok(kept) => reply.kept = Some(kept),
                // The size of an answer is known only after it was found, so a full table undoes
                // what was done. Nothing is remembered under the key: there is no room for it.
                Err(refusal) => {
                    self.roll_back();
                    return self.reply(Err(refusal));
                }
            }
        }
        self.commit();
        reply
    }

    /// A reply decided now.
    fn reply(&self, result: Result<Answer, Refusal>) -> Reply {
        Reply { result, revision: self.meta.revision, replayed: false, kept: None, hidden: false }
    }

    /// A reply decided before, with the time that is left for it now.
    fn replay(&self, mut reply: Reply) -> Reply {
        reply.replayed = true;
        if let Some(kept) = &mut reply.kept {
            kept.for_ms = kept.until_log_time_ms.saturating_sub(self.meta.log_time_ms);
        }
        reply
    }
}

/// Whether nothing is remembered of an answer, under a number or a key.
fn is_forgotten(result: &Result<Answer, Refusal>) -> bool {
    let Err(refusal) = result else { return false };
    let is_of_the_moment =
        refusal.is_of_the_moment() && !seeded_bugs::is_on("quota-refusal-remembered");
    is_of_the_moment || seeded_bugs::is_on("refusal-not-remembered")
}

/// Why a caller may not do it: the first part that it may not. All of a step is looked at, its conditions and
/// the branch that will not run, too: which one runs tells of what is stored.
fn forbid(command: &Command, rights: &Rights) -> Option<Refusal> {
    let refuse = |need: Need<'_>| {
        let lacks = rights.lacks(need);
        (lacks != Permissions::NONE).then(|| {
            let on = format!("{} {:?}", need.scope, need.name);
            denied(rights, &lacks.to_string(), &on)
        })
    };
    match &command.action {
        Action::Single(operation) => refuse(Need::of(operation)),
        Action::Apply(step) => {
            let conditions = step.conditions.iter().map(|condition| Need::read(&condition.target));
            let other: &[_] = match seeded_bugs::is_on("other-branch-unasked") {
                true => &[],
                false => &step.else_operations,
            };
            let operations = step.operations.iter().chain(other).map(Need::of);
            conditions.chain(operations).find_map(refuse)
        }
        _ => None,
    }
}

fn denied(rights: &Rights, lacks: &str, on: &str) -> Refusal {
    let user = rights.name().to_owned();
    Refusal::PermissionDenied { user, lacks: lacks.to_owned(), on: on.to_owned() }
}
