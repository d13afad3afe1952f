//! What is done to quotas: changing them, charging them, and counting for new ones.

use tally_seeded_bugs as seeded_bugs;

use super::{
    keys::RecordKey,
    limits::QUOTAS_MAX,
    quota::{QuotaCommand, QuotaLimits, QuotaRecord, Scope},
    quotas::{Quota, find},
    reply::{Answer, Refusal},
    view::View,
    work::Work,
};

impl<V: View + ?Sized> Work<'_, '_, V> {
    /// An item that had so many bytes is to have so many (nothing where there is no item): each quota on it must allow
    /// that, and is charged for it. Of several that do not, the one with the shortest prefix is named.
    pub(crate) fn charge(
        &mut self,
        scope: Scope,
        name: &str,
        before: Option<u64>,
        after: Option<u64>,
    ) -> Result<(), Refusal> {
        if self.meta.quotas.quotas == 0 {
            return Ok(());
        }
        // One that stays as large as it is looks at no quota.
        if before == after && !seeded_bugs::is_on("quota-refuses-an-add") {
            return Ok(());
        }
        self.quotas.charge(&*self.overlay, (scope, name), before, after)
    }

    /// Sets or removes a quota.
    pub(crate) fn change_quotas(&mut self, command: &QuotaCommand) -> Result<Answer, Refusal> {
        let existed = match command {
            QuotaCommand::Set { scope, prefix, limits } => {
                self.set_quota(*scope, prefix, *limits)?
            }
            QuotaCommand::Delete { scope, prefix } => self.delete_quota(*scope, prefix),
        };
        Ok(Answer::QuotaChanged { existed })
    }

    /// Whether it was there.
    fn set_quota(
        &mut self,
        scope: Scope,
        prefix: &str,
        limits: QuotaLimits,
    ) -> Result<bool, Refusal> {
        let quotas = self.quotas.load(&*self.overlay);
        let at = match find(quotas, scope, prefix) {
            Ok(at) => {
                // What it has counted it need not count again.
                quotas[at].record.limits = limits;
                quotas[at].dirty = true;
                return Ok(true);
            }
            Err(at) => at,
        };
        if quotas.len() >= QUOTAS_MAX {
            return Err(Refusal::QuotaTableFull { quotas_max: QUOTAS_MAX as u64 });
        }
        let record = QuotaRecord::new(limits);
        quotas.insert(at, Quota { scope, prefix: prefix.to_owned(), record, dirty: true });
        self.meta.quotas.quotas += 1;
        self.meta.quotas.counting += 1;
        self.write_items_back();
        self.count_for_quota(at);
        Ok(false)
    }

    /// Whether it was there.
    fn delete_quota(&mut self, scope: Scope, prefix: &str) -> bool {
        let quotas = self.quotas.load(&*self.overlay);
        let Ok(at) = find(quotas, scope, prefix) else { return false };
        let removed = quotas.remove(at);
        self.meta.quotas.quotas -= 1;
        self.meta.quotas.counting -= u64::from(!removed.record.is_ready());
        self.overlay.delete(RecordKey::Quota { scope, prefix }.encode());
        true
    }

    /// Goes on with quotas that have not counted all yet, one after the other, as far as this entry may. Not while a
    /// backup is restored, which writes items past [`Work::charge`].
    pub(crate) fn count_for_quotas(&mut self) {
        if self.meta.quotas.counting == 0 || self.meta.restore.is_under_way() {
            return;
        }
        self.write_items_back();
        let quotas = self.quotas.load(&*self.overlay).len();
        for at in 0..quotas {
            if !self.count_for_quota(at) {
                return;
            }
        }
    }

    /// Counts a piece for a quota; whether it has all then.
    fn count_for_quota(&mut self, at: usize) -> bool {
        let was_ready = self.quotas.load(&*self.overlay)[at].record.is_ready();
        let is_ready = self.quotas.count(at, &*self.overlay);
        self.meta.quotas.counting -= u64::from(is_ready && !was_ready);
        is_ready
    }
}
