//! The certificates in use, for whoever watches over a node, and warnings before they end.

use std::collections::BTreeMap;

use tally_certificates::date;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// With less left than so many days there is a warning, once for each.
const WARNED_DAYS: [u64; 3] = [30, 7, 1];

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The key of the configuration that names its file.
    pub key: &'static str,
    /// Whose it is: its first URI, else its first host name, else its common name. Of a file of CAs: the one that
    /// ends last.
    pub name: String,
    /// It is good from this on, in ms since 1970 …
    pub not_before_ms: u64,
    /// … until this. The first end in its chain; the last one of a file of CAs.
    pub not_after_ms: u64,
}

/// What was warned of.
#[derive(Debug, Default)]
pub(super) struct Warnings(BTreeMap<(&'static str, u64), Stage>);

/// How near the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Far,
    Within(std::cmp::Reverse<u64>),
    Over,
}

fn stage(certificate: &Certificate, now_ms: u64) -> Stage {
    let left = certificate.not_after_ms.saturating_sub(now_ms);
    if left == 0 {
        return Stage::Over;
    }
    let nearest = WARNED_DAYS.into_iter().rev().find(|days| left <= days * DAY_MS);
    nearest.map_or(Stage::Far, |days| Stage::Within(std::cmp::Reverse(days)))
}

impl Warnings {
    /// Warns of what is new, and says of how much.
    pub(super) fn look(&mut self, certificates: &[Certificate], now_ms: u64) -> usize {
        let mut told = 0;
        for certificate in certificates {
            let Certificate { key, name, not_before_ms, not_after_ms } = certificate;
            let stage = stage(certificate, now_ms);
            let known = self.0.entry((key, *not_after_ms)).or_insert(Stage::Far);
            let is_first_look = *known == Stage::Far;
            if stage > *known {
                *known = stage;
                told += 1;
                let until = date(*not_after_ms);
                match stage {
                    Stage::Over => {
                        tracing::error!(key, name, %until, "a certificate has ended: others refuse it");
                    }
                    _ => {
                        let days = not_after_ms.saturating_sub(now_ms) / DAY_MS;
                        tracing::warn!(key, name, %until, days, "a certificate ends soon");
                    }
                }
            }
            if is_first_look && *not_before_ms > now_ms && !self.0.contains_key(&(key, 0)) {
                self.0.insert((key, 0), Stage::Over);
                told += 1;
                let from = date(*not_before_ms);
                tracing::error!(key, name, %from, "a certificate is not good yet: others refuse it");
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_that_counts_is_warned_of_once() {
        let certificate = |not_before_ms, days| Certificate {
            key: "client_tls_cert_file",
            name: "node".to_owned(),
            not_before_ms,
            not_after_ms: days * DAY_MS,
        };
        let mut warnings = Warnings::default();
        let mut look = |day: u64| warnings.look(&[certificate(0, 100)], day * DAY_MS);
        let told: Vec<_> = [1, 60, 69, 70, 71, 92, 93, 94, 98, 99, 99, 100, 101]
            .into_iter()
            .map(|day| (day, look(day)))
            .filter(|(_, told)| *told > 0)
            .collect();
        assert_eq!(told, [(70, 1), (93, 1), (99, 1), (100, 1)]);
        // Another certificate is another matter, and one that begins later is told too.
        assert_eq!(warnings.look(&[certificate(0, 120)], 110 * DAY_MS), 1);
        assert_eq!(warnings.look(&[certificate(300 * DAY_MS, 400)], 110 * DAY_MS), 1);
        assert_eq!(warnings.look(&[certificate(300 * DAY_MS, 400)], 110 * DAY_MS), 0);
    }
}
