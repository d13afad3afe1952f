//! What backups are called that a node makes by itself.

use tally_proto::backup::Header;

/// Names of one cluster's backups, as one node makes them.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    begin: String,
    partial: String,
}

impl Names {
    /// Of a cluster, by its id as it is shown.
    pub(super) fn new(cluster: &str, node_id: u64) -> Self {
        let cluster = &cluster[..8];
        Self {
            begin: format!("tally-{cluster}-r"),
            // Several nodes may write to one place.
            partial: format!("tally-{cluster}-node{node_id}.partial"),
        }
    }

    /// `tally-42251adc-r00000000000000001234-20261129T1113Z.backup`. In the order of names they are in that of
    /// revisions, which grow with a cluster, whatever its clocks say.
    pub(super) fn of(&self, header: &Header) -> String {
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        let date = tally_certificates::date(header.wall_time_ms);
        let (day, minute) = date.split_once(' ').unwrap_or((&date, ""));
        let (day, minute) = (digits(day), digits(minute));
        format!("{}{:020}-{day}T{minute}Z.backup", self.begin, header.revision)
    }

    /// What one is called while it is not known to be right.
    pub(super) fn partial(&self) -> &str {
        &self.partial
    }

    /// Whether it is the name of one of this cluster's.
    pub(super) fn is_one(&self, name: &str) -> bool {
        name.starts_with(&self.begin) && name.ends_with(".backup")
    }

    /// Those of all names that are this cluster's, the newest first.
    pub(super) fn newest_first(&self, all: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut names: Vec<_> = all.into_iter().filter(|name| self.is_one(name)).collect();
        names.sort_by(|a, b| b.cmp(a));
        names
    }

    /// Those that are more than are kept, behind one that was just made and found right. It is never among them: where
    /// revisions went back (`tallyd recover`) older ones have higher.
    pub(super) fn too_many(
        &self,
        all: impl IntoIterator<Item = String>,
        kept: usize,
        made: &str,
    ) -> Vec<String> {
        let names = self.newest_first(all).into_iter().filter(|name| name != made);
        names.skip(kept.saturating_sub(1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("42251adc3323cb936f6b4c9d1eaf8bc9", 3)
    }

    #[test]
    fn names_are_in_the_order_of_revisions() {
        let name = |revision, wall_time_ms| {
            names().of(&Header { revision, wall_time_ms, ..Header::default() })
        };
        let first = name(1234, 1_790_000_061_000);
        assert_eq!(first, "tally-42251adc-r00000000000000001234-20260921T1414Z.backup");
        // Its clock was set back.
        assert!(name(1235, 1_690_000_061_000) > first);
        assert!(names().is_one(&first) && !names().is_one(names().partial()));
        assert!(!Names::new("00000000", 3).is_one(&first));
    }

    #[test]
    fn the_one_that_was_made_stays_whatever_its_revision() {
        let all = || (1..=5).map(|revision| names().of(&Header { revision, ..Header::default() }));
        let name = |revision| names().of(&Header { revision, ..Header::default() });
        assert_eq!(names().too_many(all(), 2, &name(5)), [name(3), name(2), name(1)]);
        assert_eq!(names().too_many(all(), 2, &name(1)), [name(4), name(3), name(2)]);
        assert_eq!(names().too_many(all(), 1, &name(1)), [name(5), name(4), name(3), name(2)]);
        assert!(names().too_many(all(), 5, &name(5)).is_empty());
    }
}
