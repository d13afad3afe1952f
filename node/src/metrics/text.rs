//! Metrics as text, in the two formats that scrapers ask for.
//!
//! Not a library's. `prometheus-client` keeps a histogram behind a lock, in which it looks for the bucket bound by bound
//! (there are 91 here, and every write passes through several of them), and writes OpenMetrics only; `prometheus`
//! writes the older format only. What is left of a library then is this file.
//!
//! Leaves out: which metrics there are; that is `catalog`.

use std::fmt::{Display, Write as _};

use super::catalog::{Family, Kind};
use crate::storage::meters::{DURATION_BOUNDS, Durations, SIZE_BOUNDS, Sizes, Snapshot};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's own, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header asks for. Prometheus names both and prefers OpenMetrics; who says
    /// nothing, such as a person with curl, gets the older one.
    pub fn asked(accept: &str) -> Format {
        let names_it = |part: &str| {
            let mut words = part.split(';').map(str::trim);
            let is_it = words.next() == Some("application/openmetrics-text");
            let refused = |word: &str| {
                let weight = word.strip_prefix("q=").map(str::parse::<f64>);
                matches!(weight, Some(Ok(weight)) if weight <= 0.0)
            };
            is_it && !words.any(refused)
        };
        match accept.split(',').any(names_it) {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Metrics being written.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    /// Nothing yet.
    pub fn new(format: Format) -> Exposition {
        Exposition { format, text: String::with_capacity(64 << 10) }
    }

    /// Begins a metric; its samples follow before the next one begins.
    pub fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let (name, kind) = match (self.format, family.kind) {
            // There the name of a counter is without the ending of its samples.
            (Format::OpenMetrics, Kind::Counter) => {
                (family.name.strip_suffix("_total").unwrap_or(family.name), "counter")
            }
            (Format::OpenMetrics, Kind::Info) => {
                (family.name.strip_suffix("_info").unwrap_or(family.name), "info")
            }
            (Format::Prometheus, Kind::Info) => (family.name, "gauge"),
            (_, kind) => (family.name, kind.name()),
        };
        let _ = writeln!(self.text, "# HELP {name} {}", family.help);
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if self.format == Format::OpenMetrics
            && let Some(unit) = ["seconds", "bytes"].iter().find(|unit| name.ends_with(*unit))
        {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        Samples { family, text: &mut self.text }
    }

    /// A metric without labels.
    pub fn single(&mut self, family: &'static Family, value: impl Display) {
        self.family(family).value(&[], value);
    }

    /// All of it.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub struct Samples<'a> {
    family: &'static Family,
    text: &'a mut String,
}

impl Samples<'_> {
    /// One number. The labels' values are in the order of the metric's labels.
    pub fn value(&mut self, labels: &[&str], value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// A histogram of times, in seconds.
    pub fn durations(&mut self, labels: &[&str], durations: &Durations) {
        let seconds = |ns: u64| ns as f64 / 1e9;
        self.buckets(labels, &durations.snapshot(), DURATION_BOUNDS, seconds, Durations::bound_ns);
    }

    /// A histogram of sizes.
    pub fn sizes(&mut self, labels: &[&str], sizes: &Sizes) {
        self.buckets(labels, &sizes.snapshot(), SIZE_BOUNDS, |size| size as f64, Sizes::bound);
    }

    fn buckets(
        &mut self,
        labels: &[&str],
        snapshot: &Snapshot,
        bounds: usize,
        in_unit: impl Fn(u64) -> f64,
        bound: impl Fn(usize) -> u64,
    ) {
        let mut below = 0;
        for (bucket, count) in snapshot.counts.iter().take(bounds).enumerate() {
            below += count;
            self.sample("_bucket", labels, Some(&in_unit(bound(bucket))), below);
        }
        let count = snapshot.count();
        self.sample("_bucket", labels, Some(&"+Inf"), count);
        self.sample("_sum", labels, None, in_unit(snapshot.sum));
        self.sample("_count", labels, None, count);
    }

    fn sample(
        &mut self,
        ending: &str,
        labels: &[&str],
        bound: Option<&dyn Display>,
        value: impl Display,
    ) {
        let Family { name, labels: names, .. } = self.family;
        assert_eq!(names.len(), labels.len(), "{name} has these labels: {names:?}");
        let text = &mut *self.text;
        text.push_str(name);
        text.push_str(ending);
        let mut before = '{';
        for (name, value) in names.iter().zip(labels) {
            let _ = write!(text, "{before}{name}=\"");
            escape(text, value);
            text.push('"');
            before = ',';
        }
        if let Some(bound) = bound {
            let _ = write!(text, "{before}le=\"{bound}\"");
            before = ',';
        }
        if before == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// What a caller made up can't end its label, or the line.
fn escape(text: &mut String, value: &str) {
    for char in value.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            char => text.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const COUNTER: Family = Family {
        name: "tally_tries_total",
        kind: Kind::Counter,
        labels: &["who"],
        help: "Tries.",
        worry: "",
    };
    const HISTOGRAM: Family =
        Family { name: "tally_wait_seconds", kind: Kind::Histogram, labels: &[], ..COUNTER };
    const INFO: Family = Family { name: "tally_build_info", kind: Kind::Info, ..COUNTER };

    #[test]
    fn both_formats() {
        let write = |format| {
            let mut text = Exposition::new(format);
            text.family(&COUNTER).value(&["a\"b\\\n"], 3);
            text.family(&INFO).value(&["x"], 1);
            text.finish()
        };
        assert_eq!(
            write(Format::Prometheus),
            "# HELP tally_tries_total Tries.\n# TYPE tally_tries_total counter\n\
             tally_tries_total{who=\"a\\\"b\\\\\\n\"} 3\n\
             # HELP tally_build_info Tries.\n# TYPE tally_build_info gauge\n\
             tally_build_info{who=\"x\"} 1\n"
        );
        assert_eq!(
            write(Format::OpenMetrics),
            "# HELP tally_tries Tries.\n# TYPE tally_tries counter\n\
             tally_tries_total{who=\"a\\\"b\\\\\\n\"} 3\n\
             # HELP tally_build Tries.\n# TYPE tally_build info\n\
             tally_build_info{who=\"x\"} 1\n# EOF\n"
        );
    }

    #[test]
    fn buckets_add_up() {
        let durations = Durations::default();
        for us in [5, 11, 12, 100_000_000] {
            durations.record(Duration::from_micros(us));
        }
        let mut text = Exposition::new(Format::OpenMetrics);
        text.family(&HISTOGRAM).durations(&[], &durations);
        let text = text.finish();
        for line in [
            "# UNIT tally_wait_seconds seconds",
            "tally_wait_seconds_bucket{le=\"0.00001\"} 1",
            "tally_wait_seconds_bucket{le=\"0.0000125\"} 3",
            "tally_wait_seconds_bucket{le=\"62.91456\"} 3",
            "tally_wait_seconds_bucket{le=\"+Inf\"} 4",
            "tally_wait_seconds_sum 100.000028",
            "tally_wait_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.2";
        assert_eq!(Format::asked(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain", "application/openmetrics-text;q=0, text/plain"] {
            assert_eq!(Format::asked(other), Format::Prometheus, "{other}");
        }
    }
}
