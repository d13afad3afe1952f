//! The columns of the table of nodes, for the view and for lines: what stands in them, and how nodes are sorted.

use std::cmp::Ordering;

use clap::ValueEnum;

use super::figures::NodeFigures;
use crate::status::bytes;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Column {
    Node,
    Role,
    Term,
    Ops,
    Writes,
    Reads,
    Errors,
    WriteP50,
    WriteP99,
    ReadP99,
    InFlight,
    Lag,
    Sync,
    Applied,
    Cpu,
    Memory,
    Log,
    State,
    Disk,
}

impl Column {
    pub(crate) const ALL: &[Column] = Self::LIST.as_slice();
    const LIST: [Column; 19] = [
        Column::Node,
        Column::Role,
        Column::Term,
        Column::Ops,
        Column::Writes,
        Column::Reads,
        Column::Errors,
        Column::WriteP50,
        Column::WriteP99,
        Column::ReadP99,
        Column::InFlight,
        Column::Lag,
        Column::Sync,
        Column::Applied,
        Column::Cpu,
        Column::Memory,
        Column::Log,
        Column::State,
        Column::Disk,
    ];

    /// Those that fit into so many letters: the one that nodes are sorted by, and of the others the first of
    /// [`Self::BY_WORTH`].
    pub(crate) fn that_fit(width: u16, sorted_by: Column) -> Vec<Column> {
        let mut left = width;
        let mut take = |column: &Column| {
            let needs = column.width() + 1;
            let fits = needs <= left;
            left -= if fits { needs } else { 0 };
            fits
        };
        let wanted = std::iter::once(sorted_by)
            .chain(Self::BY_WORTH.into_iter().filter(|column| *column != sorted_by));
        let taken: Vec<Column> = wanted.take_while(&mut take).collect();
        Self::LIST.into_iter().filter(|column| taken.contains(column)).collect()
    }

    /// What is missed most first.
    const BY_WORTH: [Column; 19] = [
        Column::Node,
        Column::Role,
        Column::Ops,
        Column::WriteP99,
        Column::Lag,
        Column::Sync,
        Column::Errors,
        Column::Term,
        Column::Writes,
        Column::Reads,
        Column::ReadP99,
        Column::InFlight,
        Column::WriteP50,
        Column::Cpu,
        Column::Disk,
        Column::Applied,
        Column::Memory,
        Column::Log,
        Column::State,
    ];

    /// Its head.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Column::Node => "node",
            Column::Role => "role",
            Column::Term => "term",
            Column::Ops => "ops/s",
            Column::Writes => "writes/s",
            Column::Reads => "reads/s",
            Column::Errors => "errors/s",
            Column::WriteP50 => "w p50",
            Column::WriteP99 => "w p99",
            Column::ReadP99 => "r p99",
            Column::InFlight => "in flight",
            Column::Lag => "lag",
            Column::Sync => "sync p99",
            Column::Applied => "applied",
            Column::Cpu => "cpu",
            Column::Memory => "memory",
            Column::Log => "log",
            Column::State => "state",
            Column::Disk => "disk free",
        }
    }

    /// Its width, in letters.
    pub(crate) fn width(self) -> u16 {
        match self {
            Column::Node => 5,
            Column::Role => 11,
            Column::Term | Column::Lag | Column::Cpu => 6,
            Column::Applied | Column::InFlight | Column::Disk => 10,
            _ => 9,
        }
    }

    /// Numbers stand on the right.
    pub(crate) fn is_text(self) -> bool {
        self == Column::Role
    }

    /// What stands in it; a dash for what is not known.
    pub(crate) fn text(self, node: &NodeFigures) -> String {
        if self == Column::Node {
            return node.id.to_string();
        }
        let Some(role) = node.role else {
            return if self == Column::Role { "unreachable".into() } else { "-".into() };
        };
        let m = &node.measured;
        match self {
            Column::Node => node.id.to_string(),
            Column::Role => role.to_string(),
            Column::Term => node.term.to_string(),
            Column::Ops => rate(m.operations_per_second),
            Column::Writes => rate(m.writes_per_second),
            Column::Reads => rate(m.reads_per_second),
            Column::Errors => rate(m.errors_per_second),
            Column::WriteP50 => ms(m.write_p50_ms),
            Column::WriteP99 => ms(m.write_p99_ms),
            Column::ReadP99 => ms(m.read_p99_ms),
            Column::InFlight => count(m.in_flight),
            Column::Lag => node.lag_entries.to_string(),
            Column::Sync => ms(m.sync_p99_ms),
            Column::Applied => node.applied_index.to_string(),
            Column::Cpu => m.cpu.map_or("-".into(), |cpu| format!("{:.0} %", cpu * 100.0)),
            Column::Memory => m.memory_bytes.map_or("-".into(), |it| bytes(it as u64)),
            Column::Log => bytes(node.log_bytes),
            Column::State => bytes(node.state_bytes),
            Column::Disk => bytes(node.disk_free_bytes),
        }
    }

    /// What nodes are sorted by; those of which it is not known come last.
    fn key(self, node: &NodeFigures) -> Option<f64> {
        let m = &node.measured;
        let known = node.role.is_some();
        match self {
            Column::Node => Some(node.id as f64),
            // The leader first.
            Column::Role => {
                node.role.map(|role| if role.to_string() == "leader" { 1.0 } else { 0.0 })
            }
            Column::Ops => m.operations_per_second,
            Column::Writes => m.writes_per_second,
            Column::Reads => m.reads_per_second,
            Column::Errors => m.errors_per_second,
            Column::WriteP50 => m.write_p50_ms,
            Column::WriteP99 => m.write_p99_ms,
            Column::ReadP99 => m.read_p99_ms,
            Column::InFlight => m.in_flight,
            Column::Sync => m.sync_p99_ms,
            Column::Cpu => m.cpu,
            Column::Memory => m.memory_bytes,
            Column::Term => known.then_some(node.term as f64),
            Column::Lag => known.then_some(node.lag_entries as f64),
            Column::Applied => known.then_some(node.applied_index as f64),
            Column::Log => known.then_some(node.log_bytes as f64),
            Column::State => known.then_some(node.state_bytes as f64),
            Column::Disk => known.then_some(node.disk_free_bytes as f64),
        }
    }

    /// The one behind, or before, it; round in a circle.
    pub(crate) fn step(self, by: isize) -> Column {
        let count = Self::LIST.len() as isize;
        Self::LIST[(self as isize + by).rem_euclid(count) as usize]
    }
}

/// Sorts nodes: the largest first, but for ids; the other way round if that is asked for.
pub(crate) fn sort(nodes: &mut [NodeFigures], by: Column, reversed: bool) {
    let ascending = (by == Column::Node) != reversed;
    nodes.sort_by(|one, other| {
        let order = match (by.key(one), by.key(other)) {
            (Some(one), Some(other)) if ascending => one.total_cmp(&other),
            (Some(one), Some(other)) => other.total_cmp(&one),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        order.then(one.id.cmp(&other.id))
    });
}

/// A number of something, or of it a second.
pub(crate) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate >= 1e6 => format!("{:.2}M", rate / 1e6),
        Some(rate) if rate >= 1e5 => format!("{:.0}k", rate / 1e3),
        Some(rate) if rate == 0.0 || rate >= 10.0 => format!("{rate:.0}"),
        Some(rate) => format!("{rate:.1}"),
    }
}

/// How many.
pub(crate) fn count(count: Option<f64>) -> String {
    count.map_or("-".to_owned(), |count| format!("{count:.0}"))
}

/// A time, with its unit.
pub(crate) fn ms(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms >= 1e4 => format!("{:.1} s", ms / 1e3),
        Some(ms) if ms >= 100.0 => format!("{ms:.0} ms"),
        Some(ms) if ms >= 1.0 => format!("{ms:.1} ms"),
        Some(ms) => format!("{:.0} µs", ms * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::figures::{
        Figures,
        tests::{NOW, look},
    };
    use super::*;

    #[test]
    fn nodes_are_sorted_and_what_is_not_known_comes_last() {
        let mut nodes = Figures::of(&look(Instant::now(), &[(2, NOW)]), None).nodes;
        let mut ids = |by, reversed| {
            sort(&mut nodes, by, reversed);
            nodes.iter().map(|node| node.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(Column::Node, false), [1, 2, 3]);
        assert_eq!(ids(Column::Node, true), [3, 2, 1]);
        assert_eq!(ids(Column::Lag, false), [2, 1, 3]);
        assert_eq!(ids(Column::Lag, true), [1, 2, 3]);
        assert_eq!(ids(Column::InFlight, false), [2, 1, 3]);
        assert_eq!(ids(Column::Role, false), [1, 2, 3]);
    }

    #[test]
    fn a_narrow_terminal_has_what_is_missed_most() {
        assert_eq!(Column::that_fit(1000, Column::Node), Column::ALL);
        let narrow = Column::that_fit(80, Column::Disk);
        let has = |column| narrow.contains(&column);
        assert!(has(Column::Disk) && has(Column::Role) && has(Column::Sync), "{narrow:?}");
        assert!(narrow.iter().map(|column| column.width() + 1).sum::<u16>() <= 80);
        let order = narrow.iter().map(|column| *column as usize);
        assert!(order.is_sorted(), "{narrow:?}");
        assert_eq!(Column::that_fit(3, Column::Node), []);
    }

    #[test]
    fn columns_stand_where_they_count() {
        for (at, column) in Column::ALL.iter().enumerate() {
            assert_eq!(*column as usize, at);
            assert!(column.title().chars().count() <= usize::from(column.width()));
        }
        assert_eq!(Column::Node.step(-1), Column::Disk);
        assert_eq!(Column::Disk.step(1), Column::Node);
    }

    #[test]
    fn numbers_are_short() {
        let rates = [0.0, 0.25, 12.3, 99_999.0, 123_456.0, 2.5e6].map(|it| rate(Some(it)));
        assert_eq!(rates, ["0", "0.2", "12", "99999", "123k", "2.50M"]);
        let times = [0.0123, 3.25, 250.4, 20_000.0].map(|it| ms(Some(it)));
        assert_eq!(times, ["12 µs", "3.2 ms", "250 ms", "20.0 s"]);
        assert_eq!((rate(None), ms(None)), ("-".to_owned(), "-".to_owned()));
    }
}
