//! `docs/metrics.md`, made of the catalogue.

use std::fmt::Write as _;

use super::catalog::{CATALOG, Kind};
use crate::storage::meters::{DURATION_BOUNDS, Durations, SIZE_BOUNDS};

/// The page.
pub fn page() -> String {
    let last = Durations::bound_ns(DURATION_BOUNDS - 1) as f64 / 1e9;
    let mut text = format!(
        "# Metrics\n\n\
         What each node exports at `/metrics` on its metrics port \
         ([observability.md](observability.md) says how to get there).\n\
         This page is made of the registrations in `node/src/metrics/catalog.rs` by\n\
         `UPDATE_METRICS_PAGE=1 cargo test -p tally-node --test operate metrics`; that test compares it with what a running\n\
         node exports.\n\n\
         Counters begin at 0 with the process. Histograms of times have {DURATION_BOUNDS} bounds from 10 µs to {last:.0} s, four an octave, so \
         a quantile is\n\
         off by a quarter at most; those of sizes and numbers have {SIZE_BOUNDS} bounds, the powers of two to 2^20. Metrics with a\n\
         `method` label have samples for the methods that were called.\n"
    );
    for (section, families) in CATALOG {
        let _ = writeln!(text, "\n## {section}\n");
        let _ = writeln!(text, "| metric | type | labels | meaning | when to worry |");
        let _ = writeln!(text, "|---|---|---|---|---|");
        for family in *families {
            let labels: Vec<String> =
                family.labels.iter().map(|label| format!("`{label}`")).collect();
            let kind = match family.kind {
                Kind::Info => "info (gauge)",
                kind => kind.name(),
            };
            let _ = writeln!(
                text,
                "| `{}` | {kind} | {} | {} | {} |",
                family.name,
                labels.join(", "),
                family.help,
                family.worry
            );
        }
    }
    text
}
