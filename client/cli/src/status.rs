//! `tally status`.

use std::io::{self, IsTerminal as _};

use clap::Args;
use serde::Serialize;
use tally_client::{AuditLogInfo, BackupInfo, Client, Health, NodeInfo, Status, Verdict};

use crate::{
    args::Time,
    output::{Exit, Failure, Output, line, table, word},
};

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Ask only one node, and let it not ask the others.
    #[arg(long)]
    pub(crate) local: bool,
    /// Show the table again every so often: a number with ms, s, m or h, or nothing for 1s.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s")]
    pub(crate) watch: Option<Time>,
    /// Exit with 7 if the cluster is degraded, and with 8 if it answers no writes.
    #[arg(long, conflicts_with_all = ["local", "watch"])]
    pub(crate) check: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Shown<'a> {
    /// One node alone gives no verdict.
    health: Option<Health>,
    #[serde(flatten)]
    status: &'a Status,
}

pub(crate) async fn run(
    client: &Client,
    arguments: &StatusOptions,
    output: Output,
) -> Result<Exit, Failure> {
    loop {
        let mut call = client.status();
        if arguments.local {
            call = call.local_only();
        }
        let status = call.await;
        let shown = |status: &Status| {
            let health = (!arguments.local).then(|| status.health());
            let shown = Shown { health, status };
            output.result(&shown, show).map(|()| shown.health.map(|health| health.verdict))
        };
        let Some(every) = arguments.watch else {
            return Ok(match shown(&status?)? {
                _ if !arguments.check => Exit::Done,
                None | Some(Verdict::Healthy) => Exit::Done,
                Some(Verdict::Degraded) => Exit::Degraded,
                Some(_) => Exit::NoWrites,
            });
        };
        match status {
            Ok(status) => {
                if !output.json && io::stdout().is_terminal() {
                    line("\x1b[2J\x1b[H")?;
                }
                shown(&status)?;
            }
            // Watching goes on through an outage: that is what it is for.
            Err(error) => {
                output.failure(&error.into());
            }
        }
        tokio::time::sleep(every.0).await;
    }
}

fn show(shown: &Shown<'_>) -> String {
    let Shown { health, status } = shown;
    let head = [
        "id",
        "role",
        "address",
        "pid",
        "term",
        "log",
        "commit",
        "applied",
        "lag",
        "snapshot",
        "log size",
        "state",
        "disk free",
        "version",
        "note",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(status.nodes.iter().map(row));
    let header = &status.header;
    let verdict = health.as_ref().map(|health| health.summary.clone() + "\n").unwrap_or_default();
    let mut text = format!(
        "{verdict}cluster {}{}, as node {} sees it; revision {}\n{}",
        word(&header.cluster_id),
        epoch_of(&status.nodes),
        header.node_id,
        header.revision,
        table(&rows)
    );
    text += &limits(&status.nodes);
    text += &certificates(&first_ends(&status.nodes), tally_certificates::now_ms());
    let logs = status.nodes.iter().filter_map(|node| Some((node.id, node.audit_log.as_ref()?)));
    text += &logs.map(|(id, log)| audit_log(id, log)).collect::<String>();
    let backups = status.nodes.iter().filter_map(|node| Some((node.id, node.backups.as_ref()?)));
    let now_ms = tally_certificates::now_ms();
    text += &backups.map(|(id, it)| backups_of(id, it, now_ms)).collect::<String>();
    let dedup = &status.dedup;
    text += &format!(
        "\nsessions {} of {}, answers {} of {}; idempotency keys {}, {} of {}",
        dedup.sessions,
        dedup.sessions_max,
        bytes(dedup.session_bytes),
        bytes(dedup.session_bytes_max),
        dedup.keys,
        bytes(dedup.key_bytes),
        bytes(dedup.key_bytes_max),
    );
    if dedup.keys > 0 {
        text += &format!(
            ", oldest {} s, room for {:.0} a second",
            dedup.oldest_key_age.as_secs(),
            dedup.sustainable_keys_per_second
        );
    }
    if dedup.sessions_warning {
        text += "\nWARNING: the table of sessions is more than 80 % full: `tally session list` shows who \
                 holds them";
    }
    if dedup.key_bytes_warning {
        text += "\nWARNING: the table of idempotency keys is more than 70 % full";
    }
    text
}

/// Where clients wanted more than they may.
fn limits(nodes: &[NodeInfo]) -> String {
    let told = nodes.iter().filter_map(|node| {
        let limits =
            node.limits.filter(|limits| limits.shares_exceeded + limits.rates_exceeded > 0)?;
        let only = if limits.report_only { ", only counted" } else { "" };
        Some(format!(
            "node {} shares {} times, rates {} times{only}",
            node.id, limits.shares_exceeded, limits.rates_exceeded
        ))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() {
        String::new()
    } else {
        format!("\nlimits of clients exceeded: {}", told.join("; "))
    }
}

/// A certificate that ends within so many days is a warning.
const ENDS_SOON_DAYS: u64 = 30;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Of each node with TLS the certificate that ends first: its key in the configuration, and when that is.
fn first_ends(nodes: &[NodeInfo]) -> Vec<(u64, String, u64)> {
    let first = |node: &NodeInfo| {
        let all = node.certificates.iter();
        let first = all.min_by_key(|certificate| certificate.not_after_wall_time_ms)?;
        Some((node.id, word(&first.key).into_owned(), first.not_after_wall_time_ms))
    };
    nodes.iter().filter_map(first).collect()
}

/// When they end, where there are any.
fn certificates(first: &[(u64, String, u64)], now_ms: u64) -> String {
    if first.is_empty() {
        return String::new();
    }
    let told = first.iter().map(|(id, key, end_ms)| {
        format!("node {id} until {} ({key})", tally_certificates::date(*end_ms))
    });
    let mut text =
        format!("\nTLS, the certificate that ends first: {}", told.collect::<Vec<_>>().join(", "));
    for (id, key, end_ms) in first {
        let days = end_ms.saturating_sub(now_ms) / DAY_MS;
        if *end_ms <= now_ms {
            text += &format!("\nWARNING: a certificate of node {id} has ended ({key})");
        } else if days < ENDS_SOON_DAYS {
            text += &format!("\nWARNING: a certificate of node {id} ends in {days} days ({key})");
        }
    }
    text
}

/// What is wrong with a node's audit log.
fn audit_log(id: u64, log: &AuditLogInfo) -> String {
    let mut text = String::new();
    if !log.error.is_empty() {
        let then = match log.must_not_drop {
            true => "requests that have to be recorded are refused",
            false => "lines are dropped once its queue is full",
        };
        let error = word(&log.error);
        text += &format!("\nWARNING: the audit log of node {id} can't be written, {then}: {error}");
    }
    for (count, what) in [
        (log.dropped_lines, "has dropped lines"),
        (log.refused_requests, "could not take requests, which were refused"),
    ] {
        if count > 0 {
            text += &format!("\nWARNING: the audit log of node {id} {what}: {count}");
        }
    }
    text
}

/// Which epoch of the cluster this is, if it is not the first.
fn epoch_of(nodes: &[NodeInfo]) -> String {
    match nodes.iter().map(|node| node.restore_epoch).max() {
        None | Some(0) => String::new(),
        Some(epoch) => format!(", epoch {epoch}"),
    }
}

/// The newest backup that a node has made by itself, and what is wrong with that.
fn backups_of(id: u64, backups: &BackupInfo, now_ms: u64) -> String {
    let mut text = match backups.last_wall_time_ms {
        0 => format!("\nnode {id} makes backups, and has none yet"),
        at => format!(
            "\nnewest backup of node {id}: {}, revision {}, {}",
            tally_certificates::date(at),
            backups.last_revision,
            bytes(backups.last_bytes)
        ),
    };
    let is_late = backups.last_wall_time_ms > 0
        && now_ms.saturating_sub(backups.last_wall_time_ms) > backups.interval_ms.saturating_mul(2);
    if !backups.error.is_empty() {
        text += &format!("\nWARNING: node {id} could not make a backup: {}", word(&backups.error));
    } else if is_late {
        text += &format!("\nWARNING: the newest backup of node {id} is older than two intervals");
    }
    text
}

fn row(node: &NodeInfo) -> Vec<String> {
    let id = node.id.to_string();
    if !node.reachable {
        let role = "unreachable".to_owned();
        let mut row = vec![id, role, node.address.clone()];
        row.extend((0..11).map(|_| "-".to_owned()));
        row.push(node.note.clone());
        return row;
    }
    let mut notes = Vec::new();
    if node.disk_nearly_full {
        notes.push("disk nearly full: writes are refused".to_owned());
    }
    if !node.local_reads_only.is_empty() {
        notes.push(format!("local reads only: {}", node.local_reads_only));
    }
    if !node.note.is_empty() {
        notes.push(node.note.clone());
    }
    vec![
        id,
        node.role.map(|role| role.to_string()).unwrap_or_default(),
        node.address.clone(),
        node.pid.to_string(),
        node.term.to_string(),
        node.last_log_index.to_string(),
        node.commit_index.to_string(),
        node.applied_index.to_string(),
        node.lag_entries.to_string(),
        node.snapshot_index.to_string(),
        bytes(node.log_bytes),
        bytes(node.state_bytes),
        bytes(node.disk_free_bytes),
        node.version.clone(),
        notes.join("; "),
    ]
}

/// A size with a unit, to three digits.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1000.0 {
            let digits = usize::from(size < 10.0 && unit != "B");
            return format!("{size:.digits$} {unit}");
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_audit_log_is_a_warning() {
        let mut log = AuditLogInfo::default();
        (log.written_lines, log.queued_bytes) = (9, 100);
        assert_eq!(audit_log(1, &log), "", "nothing is wrong");
        log.error = "no space\nleft".to_owned();
        (log.dropped_lines, log.refused_requests) = (3, 0);
        let shown = audit_log(2, &log);
        assert!(shown.contains("node 2 can't be written, lines are dropped"), "{shown}");
        assert!(shown.contains("has dropped lines: 3") && !shown.contains("refused"), "{shown}");
        assert!(!shown.contains("space\nleft"), "{shown}");
        log.must_not_drop = true;
        log.refused_requests = 4;
        let shown = audit_log(2, &log);
        assert!(shown.contains("are refused: ") && shown.contains("were refused: 4"), "{shown}");
    }

    #[test]
    fn certificates_are_shown_and_warned_of_before_they_end() {
        assert_eq!(certificates(&[], 0), "", "nothing without TLS");
        let key = || "peer_tls_cert_file".to_owned();
        let ends = [(1, key(), 100 * DAY_MS), (2, key(), 61 * DAY_MS), (3, key(), 40 * DAY_MS)];
        let shown = certificates(&ends, 40 * DAY_MS);
        let lines: Vec<_> = shown.trim().lines().collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert!(
            lines[0].contains("node 2 until 1970-03-03 00:00 UTC (peer_tls_cert_file)"),
            "{shown}"
        );
        assert_eq!(
            lines[1],
            "WARNING: a certificate of node 2 ends in 21 days (peer_tls_cert_file)"
        );
        assert_eq!(lines[2], "WARNING: a certificate of node 3 has ended (peer_tls_cert_file)");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(500 << 20), "500 MiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
    }
}
