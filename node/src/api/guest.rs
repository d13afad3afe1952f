//! Whoever has opened a stream: found out with its first call, and looked at again where that may not hold any more.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_proto::v1::CallStatus;

use super::{
    Api, Call,
    audit::Record,
    status::Kind,
    who::{Shown, Who},
};
use crate::{env::shares::Identity, machine::command::Owner};

/// Whoever has opened a stream.
pub(super) struct Guest {
    from: Option<Owner>,
    shown: Shown,
    known: Mutex<Known>,
}

/// Who has opened a stream, once that was found out.
#[derive(Default)]
struct Known {
    who: Option<Who>,
    /// How the audit log tells it.
    fields: Option<Arc<str>>,
}

impl fmt::Debug for Guest {
    /// Without what it shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guest")
    }
}

impl Guest {
    pub(super) fn new(from: Option<Owner>, shown: Shown) -> Guest {
        Guest { from, shown, known: Mutex::default() }
    }

    /// Whose share its calls take: until it is known who it is, its address's.
    pub(super) fn identity(&self, api: &Api) -> Identity {
        self.known(api).unwrap_or_else(|| Who::at(self.from)).identity()
    }

    /// Who it is, if that was found out before and still holds: not where authentication is to be on and was switched
    /// off meanwhile, nor after a restore.
    pub(super) fn known(&self, api: &Api) -> Option<Who> {
        let epoch = api.consensus.cluster_id().restore_epoch();
        self.lock().who.filter(|who| !api.serves_nobody() && !who.is_of_before(epoch))
    }

    /// A call was told that its caller is not known: the next one looks again.
    pub(super) fn forget(&self) {
        *self.lock() = Known::default();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address that it calls from.
    pub(super) fn from(&self) -> Option<Owner> {
        self.from
    }

    /// Tells a record who it is, given what was found out.
    pub(super) fn tell(&self, api: &Api, record: &mut Record, found: Option<&Who>) {
        let mut known = self.lock();
        let is_known =
            found.is_some() && known.who.map(|who| who.caller) == found.map(|who| who.caller);
        if let (true, Some(fields)) = (is_known, &known.fields) {
            record.line().fields(fields);
            return;
        }
        let line = record.line();
        let position = line.position();
        api.who_fields(line, found.map(|who| who.caller), self.shown.recorded());
        if is_known {
            known.fields = Some(line.since(position).into());
        }
    }

    /// Who it is. Who shows nothing, and need not, is nobody for as long as the stream is open.
    pub(super) async fn who(&self, api: &Api, call: &Call, kind: Kind) -> Result<Who, CallStatus> {
        if let Some(who) = self.known(api) {
            return Ok(who);
        }
        let who = api.identify(call, kind, self.from, &self.shown).await?;
        if who.caller.is_some() || self.shown.is_nothing() {
            *self.lock() = Known { who: Some(who), fields: None };
        }
        Ok(who)
    }
}
