//! `tally top` into a pipe: a line for each node and look.

use super::{
    columns::{Column, rate},
    figures::Figures,
};
use crate::output::{escaped, word};

/// Items that are named.
const HOT_SHOWN: usize = 5;

/// The head of the columns, once.
pub(crate) fn head() -> String {
    let mut line = format!("{:<8}", "time");
    for column in Column::ALL {
        push(&mut line, *column, column.title());
    }
    line + "  note"
}

/// One look: its nodes, and the most used items.
pub(crate) fn look(figures: &Figures) -> String {
    let time = time(figures.wall_time_ms);
    let mut lines = Vec::new();
    for node in &figures.nodes {
        let mut line = time.clone();
        for column in Column::ALL {
            push(&mut line, *column, &escaped(&column.text(node)));
        }
        if !node.note.is_empty() {
            line += &format!("  {}", escaped(&node.note));
        }
        if let Some(problem) = &node.problem {
            line += &format!("  no metrics: {}", escaped(problem));
        }
        lines.push(line);
    }
    if !figures.hot.is_empty() {
        let hot = figures.hot.iter().take(HOT_SHOWN);
        let hot: Vec<String> = hot
            .map(|hot| {
                format!("{} {} {}/s", word(&hot.kind), word(&hot.item), rate(Some(hot.per_second)))
            })
            .collect();
        lines.push(format!("{time}  hot: {}", hot.join(", ")));
    }
    lines.join("\n")
}

fn push(line: &mut String, column: Column, text: &str) {
    let width = usize::from(column.width());
    *line += &match column.is_text() {
        true => format!("  {text:<width$}"),
        false => format!("  {text:>width$}"),
    };
}

/// The time of day, UTC.
pub(crate) fn time(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::figures::tests::{BEFORE, NOW, look as looked};
    use super::*;

    #[test]
    fn a_line_for_each_node() {
        let began = Instant::now();
        let before = looked(began, &[(1, BEFORE)]);
        let now = looked(began + Duration::from_secs(2), &[(1, NOW), (2, "problem: too old")]);
        let text = look(&Figures::of(&now, Some(&before)));
        let lines: Vec<Vec<&str>> =
            text.lines().map(|it| it.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0][..8], ["22:13:20", "1", "leader", "4", "130", "110", "20", "10"]);
        assert_eq!(lines[1][..3], ["22:13:20", "2", "follower"]);
        assert!(text.lines().nth(1).unwrap().ends_with("no metrics: too old"), "{text}");
        assert_eq!(lines[2][..4], ["22:13:20", "3", "unreachable", "-"]);
        assert_eq!(lines[3][1..], ["hot:", "counter", "stock", "90/s"], "{text}");
        // Numbers stand below their heads.
        let of = |text: &str, what: &str| text.find(what).unwrap() + what.len();
        assert_eq!(of(&head(), "writes/s"), of(text.lines().next().unwrap(), " 110"));
    }
}
