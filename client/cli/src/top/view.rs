//! The live view, drawn.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, TableState},
};

use tally_client::Verdict;

use super::{
    columns::{Column, count, ms, rate},
    figures::{Figures, Hot, NodeFigures},
    lines::time,
    screen::{Page, Screen},
};
use crate::{output::escaped, status::bytes};

/// Rows of the graph.
const GRAPH_ROWS: u16 = 3;

/// Every key, and what it does.
const KEYS: [(&str, &str); 8] = [
    ("↑ ↓  k j", "select a node"),
    ("Enter", "look into it; Esc goes back"),
    ("s S  → ←", "sort by the next column, or the one before"),
    ("r", "sort the other way round"),
    ("+ -", "ask less often, or more often"),
    ("p Space", "pause, and go on"),
    ("? h", "this"),
    ("q Ctrl-C", "leave"),
];

/// Draws all of it.
pub(crate) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    draw_head(frame, head, screen);
    match (&screen.figures, screen.page) {
        (_, Page::Keys) => draw_keys(frame, body),
        (None, _) => {
            let text = if screen.problem.is_some() { "" } else { "asking the nodes …" };
            frame.render_widget(Paragraph::new(text), body);
        }
        (Some(figures), Page::Nodes) => draw_nodes(frame, body, figures, screen),
        (Some(figures), Page::Node(id)) => match figures.nodes.iter().find(|node| node.id == id) {
            Some(node) => draw_node(frame, body, node),
            None => {
                let text = format!("node {id} is no member any more");
                frame.render_widget(Paragraph::new(text), body);
            }
        },
    }
    let keys = match screen.page {
        Page::Nodes => {
            "↑↓ select  Enter look into  s/S sort  r reverse  +/- interval  p pause  ? keys  q leave"
        }
        Page::Node(_) => "↑↓ other node  Esc back  +/- interval  p pause  ? keys  q leave",
        Page::Keys => "Esc back  q leave",
    };
    frame.render_widget(Paragraph::new(keys).style(Modifier::DIM), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let mut first = vec!["tally top".bold()];
    if let Some(figures) = &screen.figures {
        let color = match figures.health.verdict {
            Verdict::Healthy => Color::Green,
            Verdict::Degraded => Color::Yellow,
            _ => Color::Red,
        };
        first.push(Span::from(format!("  {}  ", time(figures.wall_time_ms))));
        first.push(Span::styled(escaped(&figures.health.summary), color));
    }
    let second = match (&screen.problem, &screen.figures) {
        (Some(problem), _) => Line::from(format!("no answer: {problem}").red()),
        (None, None) => Line::default(),
        (None, Some(figures)) => {
            let paused = if screen.paused { "  PAUSED" } else { "" };
            Line::from(format!(
                "cluster {}, as node {} sees it  revision {}  {} ops/s  every {}{paused}",
                escaped(&figures.cluster_id),
                figures.asked_node_id,
                figures.revision,
                rate(figures.operations_per_second),
                ms(Some(screen.interval.as_secs_f64() * 1e3)),
            ))
        }
    };
    frame.render_widget(Paragraph::new(vec![Line::from(first), second]), area);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, figures: &Figures, screen: &Screen) {
    let rows = u16::try_from(figures.nodes.len()).unwrap_or(u16::MAX).saturating_add(2);
    let notes = notes(figures);
    let [table, graph, told, hot] = Layout::vertical([
        Constraint::Max(rows),
        Constraint::Length(GRAPH_ROWS + 1),
        Constraint::Length(u16::try_from(notes.len()).unwrap_or(4).min(4)),
        Constraint::Fill(1),
    ])
    .areas(area);
    let shown = Column::that_fit(area.width, screen.sort);
    let head = shown.iter().map(|column| {
        let is_sorted = *column == screen.sort;
        let mark = if !is_sorted {
            ""
        } else if screen.reversed {
            "△"
        } else {
            "▽"
        };
        let style = if is_sorted { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::BOLD };
        cell(*column, &format!("{}{mark}", column.title())).style(style)
    });
    let body = figures.nodes.iter().map(|node| {
        let style = match node.role.map(|role| role.to_string()).as_deref() {
            None => Style::from(Color::Red),
            Some("leader") => Style::from(Color::Green),
            Some(_) => Style::default(),
        };
        let cells = shown.iter().map(|column| cell(*column, &column.text(node)));
        Row::new(cells).style(style)
    });
    let widths = shown.iter().map(|column| Constraint::Length(column.width()));
    let nodes =
        Table::new(body, widths).header(Row::new(head)).row_highlight_style(Modifier::REVERSED);
    let mut state = TableState::default().with_selected(screen.selected);
    frame.render_stateful_widget(nodes, table, &mut state);
    draw_graph(frame, graph, screen);
    frame.render_widget(Paragraph::new(notes), told);
    draw_hot(frame, hot, &figures.hot, "most used, of all nodes");
}

fn cell(column: Column, text: &str) -> Cell<'static> {
    let line = Line::from(text.to_owned());
    Cell::from(if column.is_text() { line.left_aligned() } else { line.right_aligned() })
}

/// What wants to be read of the nodes.
fn notes(figures: &Figures) -> Vec<Line<'static>> {
    let mut notes = Vec::new();
    for node in &figures.nodes {
        if !node.note.is_empty() {
            notes.push(Line::from(format!("node {}: {}", node.id, escaped(&node.note)).yellow()));
        }
        if let Some(problem) = &node.problem {
            let text = format!("node {}: no metrics: {}", node.id, escaped(problem));
            notes.push(Line::from(text.yellow()));
        }
    }
    notes
}

fn draw_graph(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let most = screen.history.iter().max().copied().unwrap_or(0);
    let title = format!("ops/s of all nodes, at most {}", rate(Some(most as f64)));
    let width = usize::from(area.width);
    let newest = screen.history.iter().skip(screen.history.len().saturating_sub(width)).copied();
    let graph = Sparkline::default()
        .block(Block::new().title(title.bold()))
        .data(newest)
        .style(Color::Cyan);
    frame.render_widget(graph, area);
}

fn draw_hot(frame: &mut Frame<'_>, area: Rect, hot: &[Hot], title: &'static str) {
    let mut lines = vec![Line::from(title.bold())];
    if hot.is_empty() {
        lines.push(Line::from("none was seen in the last whole quarter of a minute".dim()));
    }
    lines.extend(hot.iter().map(|hot| {
        let rate = rate(Some(hot.per_second));
        Line::from(format!("{rate:>9}/s  {:<8} {}", escaped(&hot.kind), escaped(&hot.item)))
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect) {
    let lines = KEYS.iter().map(|(key, does)| Line::from(format!("{key:<10} {does}")));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

/// One node, in full.
fn draw_node(frame: &mut Frame<'_>, area: Rect, node: &NodeFigures) {
    let [top, bottom] = Layout::vertical([Constraint::Length(13), Constraint::Fill(1)]).areas(area);
    let [left, right] =
        Layout::horizontal([Constraint::Length(46), Constraint::Fill(1)]).areas(top);
    frame.render_widget(Paragraph::new(facts(node)), left);
    let mut seen = vec![Line::from("members, as this leader sees them".bold())];
    if node.measured.peers.is_empty() {
        seen.push(Line::from("it does not lead".dim()));
    }
    seen.extend(node.measured.peers.iter().map(|peer| {
        Line::from(format!(
            "node {:<4} {:>9} entries behind, heard of {} ago",
            escaped(&peer.id),
            count(Some(peer.lag_entries)),
            ms(peer.silence_ms)
        ))
    }));
    seen.push(Line::default());
    seen.push(Line::from("why requests failed".bold()));
    if node.measured.errors.is_empty() {
        seen.push(Line::from("none did".dim()));
    }
    seen.extend(node.measured.errors.iter().map(|error| {
        Line::from(format!("{:>9}/s  {}", rate(Some(error.per_second)), escaped(&error.reason)))
    }));
    frame.render_widget(Paragraph::new(seen), right);

    let [methods, hot] =
        Layout::horizontal([Constraint::Length(62), Constraint::Fill(1)]).areas(bottom);
    let head = Row::new(["method", "calls/s", "p50", "p99"].map(Cell::from)).style(Modifier::BOLD);
    let rows = node.measured.methods.iter().map(|it| {
        let number = |text: String| Cell::from(Line::from(text).right_aligned());
        Row::new([
            Cell::from(escaped(&it.method)),
            number(rate(Some(it.per_second))),
            number(ms(it.p50_ms)),
            number(ms(it.p99_ms)),
        ])
    });
    let widths = [26, 10, 10, 10].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(head), methods);
    draw_hot(frame, hot, &node.measured.hot, "most used, of this node");
}

fn facts(node: &NodeFigures) -> Vec<Line<'static>> {
    let m = &node.measured;
    let role = node.role.map_or("unreachable".to_owned(), |role| role.to_string());
    let mut lines = vec![
        Line::from(format!("node {}, {role}, {}", node.id, escaped(&node.address)).bold()),
        Line::from(format!("version {}", escaped(&node.version))),
    ];
    let mut fact =
        |name: &str, value: String| lines.push(Line::from(format!("{name:<24} {value}")));
    let bytes_of = |value: Option<f64>| value.map_or("-".to_owned(), |value| bytes(value as u64));
    fact("term, elections", format!("{}, {}", node.term, count(m.elections)));
    fact("applied, lag", format!("{}, {}", node.applied_index, node.lag_entries));
    fact("commands applied/s", rate(m.applied_per_second));
    fact(
        "writes/s p50 p99",
        [rate(m.writes_per_second), ms(m.write_p50_ms), ms(m.write_p99_ms)].join("  "),
    );
    fact(
        "reads/s p50 p99",
        [rate(m.reads_per_second), ms(m.read_p50_ms), ms(m.read_p99_ms)].join("  "),
    );
    fact(
        "syncs/s p50 p99",
        [rate(m.syncs_per_second), ms(m.sync_p50_ms), ms(m.sync_p99_ms)].join("  "),
    );
    fact("queue p99, apply p99", format!("{}  {}", ms(m.queue_p99_ms), ms(m.apply_p99_ms)));
    fact("in flight, waiting", format!("{}, {}", count(m.in_flight), count(m.proposals_waiting)));
    fact(
        "connections, sessions",
        format!("{}, {}", count(m.client_connections), count(m.sessions)),
    );
    fact(
        "log, state, not flushed",
        format!(
            "{}, {}, {}",
            bytes(node.log_bytes),
            bytes(node.state_bytes),
            bytes_of(m.dirty_bytes)
        ),
    );
    if let Some(problem) = &node.problem {
        lines.push(Line::from(format!("no metrics: {}", escaped(problem)).yellow()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use ratatui::{Terminal, backend::TestBackend};

    use super::super::figures::tests::{BEFORE, NOW, look};
    use super::*;

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<_> = buffer.content().chunks(usize::from(width)).collect();
        let line = |row: &&[ratatui::buffer::Cell]| -> String {
            row.iter().map(ratatui::buffer::Cell::symbol).collect()
        };
        cells.iter().map(|row| line(row).trim_end().to_owned()).collect()
    }

    fn screen() -> Screen {
        let mut screen = Screen::new(Column::Node, false, Duration::from_secs(1));
        let began = Instant::now();
        let before = look(began, &[(1, BEFORE)]);
        let now = look(began + Duration::from_secs(2), &[(1, NOW), (2, "problem: too \u{1b}old")]);
        screen.show(Figures::of(&now, Some(&before)));
        screen
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn the_table_of_nodes() {
        let lines = drawn(&screen(), 200, 24);
        assert!(lines[0].starts_with("tally top  22:13:20  DEGRADED: "), "{lines:#?}");
        assert!(
            lines[1].starts_with(
                "cluster c0ffee, as node 1 sees it  revision 42  130 ops/s  every 1000 ms"
            ),
            "{lines:#?}"
        );
        assert!(lines[2].contains("node▽") && lines[2].contains("sync p99"), "{lines:#?}");
        assert_eq!(words(&lines[3])[..7], ["1", "leader", "4", "130", "110", "20", "10"]);
        assert_eq!(words(&lines[4])[..4], ["2", "follower", "4", "-"]);
        assert_eq!(words(&lines[5])[..3], ["3", "unreachable", "-"]);
        let text = lines.join("\n");
        assert!(text.contains("ops/s of all nodes, at most 130"), "{text}");
        assert!(text.contains("node 3: connection refused"), "{text}");
        assert!(text.contains("node 2: no metrics: too \\u{1b}old"), "{text}");
        assert!(text.contains("90/s  counter  stock"), "{text}");
        assert!(lines[23].ends_with("q leave"), "{text}");
    }

    #[test]
    fn one_node_in_full() {
        let mut screen = screen();
        screen.page = Page::Node(1);
        let text = drawn(&screen, 120, 30).join("\n");
        for part in [
            "node 1, leader, 10.0.0.1:7401",
            "writes/s p50 p99         110  3.0 ms  4.0 ms",
            "syncs/s p50 p99          10  500 µs  990 µs",
            "node 2           17 entries behind, heard of 250 ms ago",
            "10/s  NO_QUORUM",
            "CountersAdd                       110     3.0 ms     4.0 ms",
            "90/s  counter  stock",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        screen.page = Page::Node(9);
        assert!(drawn(&screen, 120, 30).join("\n").contains("node 9 is no member any more"));
    }

    #[test]
    fn an_outage_a_small_terminal_and_the_keys() {
        let mut waiting = Screen::new(Column::Node, false, Duration::from_secs(1));
        assert!(drawn(&waiting, 80, 5)[2].starts_with("asking the nodes"));
        waiting.problem = Some("nobody listens".to_owned());
        assert!(drawn(&waiting, 80, 5)[1].starts_with("no answer: nobody listens"));
        let mut screen = screen();
        for (width, height) in [(1, 1), (10, 3), (40, 8)] {
            drawn(&screen, width, height);
        }
        screen.page = Page::Keys;
        let text = drawn(&screen, 80, 20).join("\n");
        assert!(KEYS.iter().all(|(key, does)| text.contains(key) && text.contains(does)), "{text}");
    }
}
