//! A word in the log when more is used than a soft limit of a quota says, and one when that is over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::LOGS;
use crate::{
    machine::{
        query,
        quota::{QuotaRecord, QuotaUnit, Scope},
        quotas::quotas,
    },
    metrics::Metrics,
    storage::state::StateStore,
};

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A soft limit: which items, by prefix, and on what.
type SoftLimit = (Scope, String, QuotaUnit);

/// The soft limits that are passed.
#[derive(Debug, Default)]
struct Passed(BTreeSet<SoftLimit>);

/// What happened to a soft limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// More is used than it says; what is used, and what it says.
    Passed { used: u64, soft: u64 },
    /// Not any more: as much is used as it allows or less, or it is gone.
    Cleared,
}

impl Passed {
    /// Looks once more: what is to be said, each thing once.
    fn look(&mut self, quotas: Vec<(Scope, String, QuotaRecord)>) -> Vec<(SoftLimit, News)> {
        let mut now = BTreeSet::new();
        let mut news = Vec::new();
        for (scope, prefix, record) in quotas {
            for unit in QuotaUnit::ALL {
                let (used, soft, _) = record.of(unit);
                let Some(soft) = soft.filter(|_| record.is_above_soft(unit)) else { continue };
                let limit = (scope, prefix.clone(), unit);
                if !self.0.contains(&limit) {
                    news.push((limit.clone(), News::Passed { used, soft }));
                }
                now.insert(limit);
            }
        }
        let before = std::mem::replace(&mut self.0, now);
        let cleared = before.difference(&self.0).cloned();
        news.extend(cleared.map(|limit| (limit, News::Cleared)));
        news
    }
}

/// Says so in the log of this node, once for each time that a soft limit is passed for longer than a moment. Each node
/// says it of its own state, as an operator may look at any of them.
pub(super) async fn watch_quotas(state: Arc<StateStore>, metrics: Arc<Metrics>) {
    let mut passed = Passed::default();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let there = {
            let view = state.view();
            match query::meta(&view).quotas.quotas {
                0 => Vec::new(),
                _ => quotas(&view),
            }
        };
        for ((scope, prefix, unit), news) in passed.look(there) {
            let prefix = metrics.hot.shown(&prefix);
            match news {
                News::Passed { used, soft } => tracing::warn!(
                    target: LOGS, %scope, prefix, %unit, used, soft,
                    "more is used than the soft limit of a quota says; above its hard limit, what grows is refused"
                ),
                News::Cleared => tracing::info!(
                    target: LOGS, %scope, prefix, %unit,
                    "what is used is within the soft limit of a quota again, or that is gone"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::quota::{Counted, QuotaLimits, Used};

    #[test]
    fn each_passing_is_said_once_and_so_is_its_end() {
        let mut passed = Passed::default();
        let mut look = |used: Option<(u64, u64)>| {
            let limits =
                QuotaLimits { soft_items: Some(2), soft_bytes: Some(50), ..QuotaLimits::default() };
            let quota = used.map(|(items, bytes)| {
                let used = Used { items, bytes };
                let record = QuotaRecord { limits, used, counted: Counted::All };
                (Scope::Keys, "a".to_owned(), record)
            });
            let news = passed.look(quota.into_iter().collect());
            news.into_iter().map(|((_, _, unit), news)| (unit, news)).collect::<Vec<_>>()
        };
        let items = |used| (QuotaUnit::Items, News::Passed { used, soft: 2 });
        let bytes = |used| (QuotaUnit::Bytes, News::Passed { used, soft: 50 });
        assert_eq!(look(Some((2, 50))), [], "as much as it says is not more");
        assert_eq!(look(Some((3, 50))), [items(3)]);
        assert_eq!(look(Some((4, 51))), [bytes(51)]);
        assert_eq!(look(Some((5, 52))), []);
        assert_eq!(look(Some((2, 52))), [(QuotaUnit::Items, News::Cleared)]);
        assert_eq!(look(Some((3, 52))), [items(3)], "it is said again");
        let both = QuotaUnit::ALL.map(|unit| (unit, News::Cleared));
        assert_eq!(look(None), both, "a quota that is removed says nothing any more");
        assert_eq!(look(None), []);
    }
}
