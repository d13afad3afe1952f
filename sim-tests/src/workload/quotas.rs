//! Who sets, changes and removes quotas while users write and things break, and lists what is used.
//!
//! The quotas are on the names that users use, with limits around what is there: some are passed at once, some after the
//! next writes. What users are told of it is in their history; that it is right is judged by [`crate::quotas`]. In the
//! end there is none, so that whoever reads everything can write.

use std::{rc::Rc, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    Client, ReadLevel,
    proto::{Quota, QuotaLimits, QuotaScope, QuotasDeleteRequest, QuotasSetRequest},
};

use super::{Workload, user::lull};
use crate::{
    cluster::Cluster,
    env::{mix, simulated_ms},
    quotas::Book,
    trace_event,
};

/// What they are on. Several are about one name.
const ON: [(QuotaScope, &str); 8] = [
    (QuotaScope::Counters, ""),
    (QuotaScope::Counters, "counter-"),
    (QuotaScope::Counters, "counter-0"),
    (QuotaScope::Counters, "far-"),
    (QuotaScope::Keys, ""),
    (QuotaScope::Keys, "key-"),
    (QuotaScope::Keys, "key-0"),
    (QuotaScope::Keys, "nothing-has-this-prefix"),
];
/// Pause between two calls, in ms.
const PAUSE_MS_MAX: u64 = 800;

struct Keeper {
    client: Client,
    book: Book,
    rng: SmallRng,
    /// As last listed.
    listed: Vec<Quota>,
}

impl Workload {
    /// Changes quotas until users end, then removes all.
    pub(super) async fn keep_quotas(self, cluster: Cluster) {
        let shared = Rc::clone(&self.shared);
        let book = shared.quotas.clone().expect("this seed has quotas");
        let client = cluster.client(1_003).deadline(Duration::from_secs(3)).build();
        let mut keeper = Keeper {
            client: client.expect("the settings are valid"),
            book,
            rng: SmallRng::seed_from_u64(mix(shared.seed, &[0x90a7])),
            listed: Vec::new(),
        };
        while !shared.ready.get() && !shared.stop.get() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !shared.stop.get() {
            let pause = keeper.rng.random_range(10..PAUSE_MS_MAX);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            lull(&shared).await;
            match keeper.rng.random_range(0..10) {
                0..3 => keeper.set().await,
                3..6 => {
                    keeper.remove().await;
                }
                _ => keeper.list().await,
            }
        }
        for (scope, prefix) in ON {
            while !keeper.remove_this(scope, prefix).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        shared.running.set(shared.running.get() - 1);
    }
}

impl Keeper {
    fn draw(&mut self) -> (QuotaScope, &'static str) {
        *ON.choose(&mut self.rng).expect("not empty")
    }

    async fn set(&mut self) {
        let (scope, prefix) = self.draw();
        let known =
            self.listed.iter().find(|quota| quota.scope() == scope && quota.prefix == prefix);
        let used = known.map_or((0, 0), |quota| (quota.used_items, quota.used_bytes));
        let used = match known {
            Some(_) => used,
            // Nobody has told yet.
            None => (self.rng.random_range(0..20), self.rng.random_range(0..2_000)),
        };
        let around = |rng: &mut SmallRng, used: u64, step: u64| {
            let least = used.saturating_sub(step);
            rng.random_bool(0.5).then(|| rng.random_range(least..=used + 2 * step))
        };
        let (hard_items, hard_bytes) =
            (around(&mut self.rng, used.0, 3), around(&mut self.rng, used.1, 100));
        let below = |hard: Option<u64>| hard.map(|hard| hard / 2);
        let limits = QuotaLimits {
            soft_items: below(hard_items),
            hard_items,
            soft_bytes: below(hard_bytes),
            hard_bytes,
        };
        let request = QuotasSetRequest {
            scope: scope as i32,
            prefix: prefix.to_owned(),
            limits: Some(limits),
        };
        let told = match self.client.quota_set(request).await {
            Ok(answer) => entry(answer.header.map(|header| header.applied_index)),
            Err(error) => self.failed(&error),
        };
        trace_event!(
            "quotas",
            "sets {} {prefix:?} to at most {hard_items:?} items and {hard_bytes:?} bytes: {told}",
            scope.as_str_name()
        );
    }

    async fn remove(&mut self) -> bool {
        let (scope, prefix) = self.draw();
        self.remove_this(scope, prefix).await
    }

    async fn remove_this(&mut self, scope: QuotaScope, prefix: &str) -> bool {
        let request = QuotasDeleteRequest { scope: scope as i32, prefix: prefix.to_owned() };
        let answer = self.client.quota_delete(request).await;
        let is_done = answer.is_ok();
        let told = match answer {
            Ok(answer) => entry(answer.header.map(|header| header.applied_index)),
            Err(error) => self.failed(&error),
        };
        trace_event!("quotas", "removes {} {prefix:?}: {told}", scope.as_str_name());
        is_done
    }

    async fn list(&mut self) {
        let level = match self.rng.random_range(0..3) {
            0 => ReadLevel::Linearizable,
            1 => ReadLevel::Session(None),
            _ => ReadLevel::Local,
        };
        let began = simulated_ms().unwrap_or(0);
        let told = match self.client.quota_list().level(level).await {
            Ok(answer) => {
                let applied = answer.header.map_or(0, |header| header.applied_index);
                self.book.listed(applied, &answer.quotas);
                self.listed = answer.quotas;
                format!("{} as of entry {applied}", self.listed.len())
            }
            Err(error) => self.failed(&error),
        };
        let took = simulated_ms().unwrap_or(0) - began;
        trace_event!("quotas", "are listed: {told} ({took} ms)");
    }

    fn failed(&self, error: &tally_client::Error) -> String {
        self.book.happened(&format!("keeper of quotas told: {}", error.reason()));
        error.reason().to_owned()
    }
}

fn entry(index: Option<u64>) -> String {
    format!("entry {}", index.unwrap_or(0))
}
