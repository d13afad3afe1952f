//! How full the tables behind exactly-once are, and a word in the log before one refuses newcomers.

use std::{sync::Arc, time::Duration};

use crate::{
    machine::{query, records::Meta},
    storage::state::StateStore,
};

/// One of the tables.
#[derive(Debug)]
pub(crate) struct Table {
    name: &'static str,
    /// Above so many percent of its limit it is said to be filling.
    warning_percent: u64,
    /// What it holds, and its limit.
    fill: fn(&Meta) -> (u64, u64),
    /// What an operator can do.
    advice: &'static str,
}

/// Open sessions.
pub(crate) const SESSIONS: Table = Table {
    name: "sessions",
    warning_percent: 80,
    fill: |meta| (meta.sessions, meta.settings.sessions_max),
    advice: "`tally session list` shows who holds them, `tally session close` ends some",
};

/// Bytes of remembered idempotency keys.
pub(crate) const KEYS: Table = Table {
    name: "idempotency keys, in bytes",
    warning_percent: 70,
    fill: |meta| (meta.idempotency_bytes, meta.settings.idempotency_bytes_max),
    advice: "shorter windows, or sessions, take less of it; each key goes when its window is over",
};

/// It is said again only after it has been this much emptier, in percent of the limit: so that one which
/// stays about there is not said to fill again and again.
const RELIEF_PERCENT: u64 = 10;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Table {
    /// Whether it holds more than its percentage.
    pub(crate) fn is_filling(&self, meta: &Meta) -> bool {
        self.is_above(meta, self.warning_percent)
    }

    fn is_above(&self, meta: &Meta, percent: u64) -> bool {
        let (held, max) = (self.fill)(meta);
        u128::from(held) * 100 > u128::from(max) * u128::from(percent)
    }

    /// Whether this is the moment to say that it fills: once for each time that it does.
    fn crosses(&self, meta: &Meta, said: &mut bool) -> bool {
        let threshold = match *said {
            true => self.warning_percent - RELIEF_PERCENT,
            false => self.warning_percent,
        };
        let is_above = self.is_above(meta, threshold);
        !std::mem::replace(said, is_above) && is_above
    }
}

/// Says in the log of this node when a table fills. Each node says it of its own state, as an operator
/// may look at any of them.
pub(crate) async fn watch(state: Arc<StateStore>) {
    let mut said = [false; 2];
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let meta = query::meta(&state.view());
        for (table, said) in [SESSIONS, KEYS].iter().zip(&mut said) {
            if table.crosses(&meta, said) {
                let (held, max) = (table.fill)(&meta);
                let Table { name, warning_percent, advice, .. } = table;
                tracing::warn!(
                    table = name,
                    held,
                    max,
                    "a table is more than {warning_percent} % full; when it is full, newcomers are \
                     refused: {advice}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::command::Settings;

    #[test]
    fn a_table_that_fills_is_said_to_once() {
        let settings = Settings { sessions_max: 10, ..Settings::default() };
        let mut said = false;
        let mut crosses = |sessions| {
            let meta = Meta { sessions, settings, ..Meta::default() };
            SESSIONS.crosses(&meta, &mut said)
        };
        let seen: Vec<bool> = [0, 8, 9, 10, 8, 9, 7, 8, 9, 9].map(&mut crosses).into();
        let said_at: Vec<usize> = (0..seen.len()).filter(|at| seen[*at]).collect();
        assert_eq!(said_at, [2, 8], "above 8 of 10, and again only after 7");
    }
}
