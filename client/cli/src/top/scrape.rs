//! Metrics as nodes tell them: Prometheus's text format, read back, and what two readings say together.
//!
//! Leaves out: exemplars and escapes in help texts, which nobody here looks at. A line that is not understood is
//! passed over: a newer node may say more.

use std::collections::BTreeMap;

/// Labels of a sample, in their order.
type Labels = Vec<(String, String)>;

/// One reading of one node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scrape(BTreeMap<String, Vec<(Labels, f64)>>);

/// What is asked of a label.
pub(crate) type Wanted<'a> = (&'a str, &'a dyn Fn(&str) -> bool);

impl Scrape {
    /// Reads a text.
    pub(crate) fn read(text: &str) -> Self {
        let mut samples: BTreeMap<String, Vec<(Labels, f64)>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, labels, value)) = sample(line) {
                samples.entry(name.to_owned()).or_default().push((labels, value));
            }
        }
        Self(samples)
    }

    fn of(&self, name: &str) -> &[(Labels, f64)] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a metric without labels, or the sum over them; nothing if there is no sample.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.sum(name, &[])
    }

    /// The sum of the samples whose labels are as wanted; nothing if there are none.
    pub(crate) fn sum(&self, name: &str, wanted: &[Wanted<'_>]) -> Option<f64> {
        let mut found = self.of(name).iter().filter(|(labels, _)| fit(labels, wanted)).peekable();
        found.peek()?;
        Some(found.map(|(_, value)| value).sum())
    }

    /// The samples of a metric by one of its labels, summed over the others.
    pub(crate) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        for (labels, value) in self.of(name) {
            if let Some(of) = get(labels, label) {
                *found.entry(of.to_owned()).or_default() += value;
            }
        }
        found
    }

    /// The samples of a metric by two of its labels.
    pub(crate) fn by_two(&self, name: &str, one: &str, two: &str) -> Vec<(String, String, f64)> {
        let of = |(labels, value): &(Labels, f64)| {
            Some((get(labels, one)?.to_owned(), get(labels, two)?.to_owned(), *value))
        };
        self.of(name).iter().filter_map(of).collect()
    }

    /// Counts of a histogram, summed over the series whose labels are as wanted.
    pub(crate) fn histogram(&self, name: &str, wanted: &[Wanted<'_>]) -> Histogram {
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for (labels, count) in self.of(&format!("{name}_bucket")) {
            let bound = get(labels, "le").and_then(|bound| match bound {
                "+Inf" => Some(f64::INFINITY),
                bound => bound.parse().ok(),
            });
            if let (Some(bound), true) = (bound, fit(labels, wanted)) {
                let others = labels.iter().filter(|(label, _)| label != "le").cloned().collect();
                series.entry(others).or_default().push((bound, *count));
            }
        }
        for buckets in series.values_mut() {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        }
        Histogram(series)
    }
}

fn get<'a>(labels: &'a Labels, wanted: &str) -> Option<&'a str> {
    labels.iter().find(|(label, _)| label == wanted).map(|(_, value)| value.as_str())
}

fn fit(labels: &Labels, wanted: &[Wanted<'_>]) -> bool {
    wanted.iter().all(|(label, fits)| get(labels, label).is_some_and(fits))
}

fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches([',', ' ']);
            if let Some(behind) = inside.strip_prefix('}') {
                rest = behind;
                break;
            }
            let (label, value) = inside.split_once("=\"")?;
            let (value, behind) = unquoted(value)?;
            labels.push((label.to_owned(), value));
            inside = behind;
        }
    }
    let value = rest.split_whitespace().next()?;
    Some((name, labels, value.parse().ok()?))
}

/// A quoted text up to its end, and what is behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// Cumulative counts by upper bound, for each series.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram(BTreeMap<Labels, Vec<(f64, f64)>>);

/// How much is at most so large. Bounds that are missing count as much as the one below.
fn at(buckets: &[(f64, f64)], bound: f64) -> f64 {
    let upto = buckets.partition_point(|(other, _)| *other <= bound);
    upto.checked_sub(1).map_or(0.0, |last| buckets[last].1)
}

impl Histogram {
    /// What came since an earlier reading. A series that counts less than it did began anew.
    pub(crate) fn since(&self, earlier: &Histogram) -> Quantiles {
        let mut bounds: Vec<f64> =
            self.0.values().flatten().map(|(bound, _)| *bound).chain([f64::INFINITY]).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let mut counts = vec![0.0; bounds.len()];
        for (labels, buckets) in &self.0 {
            let before = earlier.0.get(labels).map_or(&[][..], Vec::as_slice);
            let began_anew = at(before, f64::INFINITY) > at(buckets, f64::INFINITY);
            let before = if began_anew { &[][..] } else { before };
            for (count, bound) in counts.iter_mut().zip(&bounds) {
                *count += (at(buckets, *bound) - at(before, *bound)).max(0.0);
            }
        }
        Quantiles(bounds.into_iter().zip(counts).collect())
    }
}

/// Counts of a while.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quantiles(Vec<(f64, f64)>);

impl Quantiles {
    /// How many.
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value that this share of them is at most; nothing if there are none. Within a bucket it is
    /// interpolated; above the last bound it is that.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count();
        let found = self.0.iter().position(|(_, count)| *count >= rank && *count > 0.0)?;
        let (bound, count) = self.0[found];
        let (below, counted) = found.checked_sub(1).map_or((0.0, 0.0), |before| self.0[before]);
        if bound.is_infinite() {
            return Some(below);
        }
        let within = if count > counted { (rank - counted) / (count - counted) } else { 1.0 };
        Some(below + (bound - below) * within.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP tally_requests_total Requests.
# TYPE tally_requests_total counter
tally_requests_total{method="CountersAdd",outcome="ok"} 10
tally_requests_total{method="CountersAdd",outcome="failed"} 2
tally_requests_total{method="KeysGet",outcome="ok"} 5
tally_term 7
tally_hot{kind="counter",item="a \"b\"\\ {x},y=\"\n"} 3.5 1700000000
broken{method="x
tally_wait_seconds_bucket{method="a",le="0.001"} 1
tally_wait_seconds_bucket{method="a",le="0.004"} 3
tally_wait_seconds_bucket{method="a",le="+Inf"} 4
tally_wait_seconds_bucket{method="b",le="0.002"} 4
tally_wait_seconds_bucket{method="b",le="+Inf"} 4
"#;

    fn is<'a>(wanted: &'a str) -> impl Fn(&str) -> bool + 'a {
        move |value| value == wanted
    }

    #[test]
    fn what_is_written_is_read() {
        let scrape = Scrape::read(TEXT);
        assert_eq!(scrape.value("tally_term"), Some(7.0));
        assert_eq!(scrape.value("tally_requests_total"), Some(17.0));
        let ok = is("ok");
        assert_eq!(scrape.sum("tally_requests_total", &[("outcome", &ok)]), Some(15.0));
        assert_eq!(scrape.sum("tally_requests_total", &[("nothing", &ok)]), None);
        assert_eq!(scrape.value("tally_missing"), None);
        let by = scrape.by("tally_requests_total", "method");
        assert_eq!(
            by.into_iter().collect::<Vec<_>>(),
            [("CountersAdd".to_owned(), 12.0), ("KeysGet".to_owned(), 5.0)]
        );
        let hot = scrape.by_two("tally_hot", "kind", "item");
        assert_eq!(hot, [("counter".to_owned(), "a \"b\"\\ {x},y=\"\n".to_owned(), 3.5)]);
    }

    #[test]
    fn quantiles_of_several_series_and_of_a_while() {
        let now = Scrape::read(TEXT);
        let all = now.histogram("tally_wait_seconds", &[]).since(&Histogram::default());
        assert_eq!(all.count(), 8.0);
        // At 1 ms one, at 2 ms five (a bound that series a does not have), at 4 ms seven.
        assert_eq!(all.quantile(0.125), Some(0.001));
        assert_eq!(all.quantile(0.625), Some(0.002));
        assert_eq!(all.quantile(0.75), Some(0.003));
        assert_eq!(all.quantile(1.0), Some(0.004), "above the last bound there is none to tell");
        let a = is("a");
        let only = now.histogram("tally_wait_seconds", &[("method", &a)]);
        assert_eq!(only.since(&only).quantile(0.5), None, "nothing came");
        let mut later = TEXT.replace("method=\"a\",le=\"+Inf\"} 4", "method=\"a\",le=\"+Inf\"} 9");
        later = later.replace("\"0.004\"} 3", "\"0.004\"} 8");
        let later = Scrape::read(&later).histogram("tally_wait_seconds", &[]);
        let came = later.since(&now.histogram("tally_wait_seconds", &[]));
        assert_eq!(came.count(), 5.0);
        assert!(came.quantile(0.5).is_some_and(|at| at > 0.001 && at <= 0.004), "{came:?}");
        // A node that began anew has counted less.
        let anew = Scrape::read("tally_wait_seconds_bucket{method=\"a\",le=\"+Inf\"} 2\n");
        let anew = anew.histogram("tally_wait_seconds", &[]).since(&later);
        assert_eq!(anew.count(), 2.0);
    }
}
