//! What a node tells of itself at length: what `tally debug bundle` gathers, and its metrics.
//!
//! # What is never in it
//! Secrets and stored values. The configuration names files of keys and never has what is in them; what a URL carries
//! before its host is left out. Of the state there are counts alone, of files names and sizes. Logs are those from
//! info up, which have no names of items and no values. And whatever looks like a token of Tally's or like a private
//! key is struck out of every text, wherever it may come from ([`scrub`]).

use std::{
    io,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{eyes::Eyes, report::Report};
use crate::{
    config::Config,
    consensus::{Consensus, cluster_id::format_cluster_id},
    env::{Env, Surroundings},
    machine::{auth::secret::SECRET_BYTES, query},
    peer::peers::Peers,
    status::{REPORT_BYTES_MAX, SelfReport, Tells, Text},
    storage::disk::{Disk, OpenMode},
};

/// A layout names so many files at most.
const FILES_MAX: usize = 2_000;

/// … so deep.
const DEPTH_MAX: usize = 4;

/// What the log may take of an answer; the rest is small.
const LOG_BYTES_MAX: usize = REPORT_BYTES_MAX - (512 << 10);

/// Tells.
pub(super) struct Teller {
    config: String,
    disk: Arc<dyn Disk>,
    surroundings: Option<Arc<dyn Surroundings>>,
    report: Arc<Report>,
    consensus: Consensus,
    peers: Peers,
    eyes: Weak<Eyes>,
}

impl Teller {
    pub(super) fn new(
        config: &Config,
        env: &Env,
        report: Arc<Report>,
        consensus: Consensus,
        peers: Peers,
        eyes: &Arc<Eyes>,
    ) -> Arc<Teller> {
        Arc::new(Teller {
            config: without_secrets(config),
            disk: Arc::clone(&env.disk),
            surroundings: env.surroundings.clone(),
            report,
            consensus,
            peers,
            eyes: Arc::downgrade(eyes),
        })
    }

    fn log(&self) -> Text {
        let Some(surroundings) = &self.surroundings else {
            return Text::missing("log.txt", "this process keeps no log lines");
        };
        let recent = surroundings.recent_log();
        let mut text = Text::new("log.txt", recent.lines);
        if recent.forgotten > 0 {
            text.problem = format!("{} earlier lines are no longer kept", recent.forgotten);
        }
        text.shorten(LOG_BYTES_MAX, true);
        text
    }

    fn machine(&self) -> Text {
        match &self.surroundings {
            Some(surroundings) => Text::new("machine.txt", surroundings.machine()),
            None => Text::missing("machine.txt", "this process does not know its machine"),
        }
    }

    fn state(&self) -> Text {
        let meta = query::meta(&self.consensus.state().view());
        let (voters, members) = self.consensus.members();
        let peers: Vec<Value> = members
            .iter()
            .map(|(id, member)| {
                json!({
                    "id": id,
                    "peer_address": member.peer_address,
                    "client_address": self.peers.client_address(*id),
                    "votes": voters.contains(id),
                    "trouble": self.peers.trouble(*id),
                    "not_met": self.peers.unmet_reason(*id),
                })
            })
            .collect();
        let certificates: Vec<Value> = self
            .report
            .certificates()
            .iter()
            .map(|it| json!({ "key": it.key, "name": it.name, "not_before_ms": it.not_before_ms, "not_after_ms": it.not_after_ms }))
            .collect();
        pretty(
            "state.json",
            &json!({
                "cluster_id": format_cluster_id(meta.cluster_id),
                "revision": meta.revision,
                "log_time_ms": meta.log_time_ms,
                "counters": meta.counters,
                "keys": meta.keys,
                "sessions": meta.sessions,
                "session_answers": meta.session_answers,
                "session_answer_bytes": meta.session_answer_bytes,
                "idempotency_keys": meta.idempotency_keys,
                "idempotency_bytes": meta.idempotency_bytes,
                "authentication_enabled": meta.auth.enabled,
                "settings": {
                    "sessions_max": meta.settings.sessions_max,
                    "session_idle_ms": meta.settings.session_idle_ms,
                    "idempotency_window_ms": meta.settings.idempotency_window_ms,
                    "idempotency_bytes_max": meta.settings.idempotency_bytes_max,
                },
                "members": peers,
                "certificates": certificates,
                "local_reads_only": self.report.local_reads_only(),
                "note": self.report.note(),
            }),
        )
    }

    async fn storage(&self) -> Text {
        let Report { log, state, guard, .. } = &*self.report;
        let snapshot = state.current_snapshot().map(|built| {
            json!({
                "path": built.path,
                "bytes": built.size,
                "last_index": built.last_log_id.index,
                "last_term": built.last_log_id.term,
            })
        });
        let vote = log
            .vote()
            .map(|it| json!({ "term": it.term, "node_id": it.node_id, "committed": it.committed }));
        let (files, problem) = self.files().await;
        let mut text = pretty(
            "storage.json",
            &json!({
                "log": {
                    "first_index": log.first_index(),
                    "last_index": log.last().map(|last| last.index),
                    "last_term": log.last().map(|last| last.term),
                    "synced_index": log.synced_index(),
                    "committed_index": log.committed().map(|committed| committed.index),
                    "purged_index": log.purged().map(|purged| purged.index),
                    "vote": vote,
                    "bytes": log.disk_bytes(),
                },
                "state": {
                    "applied_index": state.applied().map(|applied| applied.index),
                    "flushed_index": state.flushed_applied().map(|flushed| flushed.index),
                    "purge_limit_index": state.purge_limit().map(|limit| limit.index),
                    "dirty_bytes": state.dirty_bytes(),
                    "bytes": state.size_bytes().ok(),
                },
                "snapshot": snapshot,
                "disk": { "free_bytes": guard.free_bytes(), "reserve_is_held": guard.is_held() },
                "files": files,
            }),
        );
        text.problem = problem;
        text
    }

    /// Names and sizes below the data directory.
    async fn files(&self) -> (Vec<Value>, String) {
        let (mut files, mut problems) = (Vec::new(), Vec::new());
        let mut left = vec![(String::new(), 0)];
        while let Some((path, depth)) = left.pop() {
            let names = match self.disk.list(&path).await {
                Ok(names) => names,
                // What is no directory, or is gone by now, is looked at as a file.
                Err(error) if path.is_empty() => {
                    problems.push(format!("the data directory can't be listed: {error}"));
                    break;
                }
                Err(_) => {
                    match self.length(&path).await {
                        Ok(bytes) => files.push(json!({ "path": path, "bytes": bytes })),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => problems.push(format!("{path}: {error}")),
                    }
                    if files.len() >= FILES_MAX {
                        problems.push(format!("files beyond {FILES_MAX} were left out"));
                        break;
                    }
                    continue;
                }
            };
            if depth > DEPTH_MAX {
                problems.push(format!("{path}: what is below was left out"));
                continue;
            }
            let below = |name: String| match path.is_empty() {
                true => name,
                false => format!("{path}/{name}"),
            };
            left.extend(names.into_iter().rev().map(|name| (below(name), depth + 1)));
        }
        problems.truncate(10);
        (files, problems.join("; "))
    }

    async fn length(&self, path: &str) -> io::Result<u64> {
        self.disk.open(path, OpenMode::Read).await?.len().await
    }
}

#[async_trait]
impl Tells for Teller {
    fn metrics(&self) -> Text {
        // Not held by those who answer calls, of whom it holds one.
        let Some(eyes) = self.eyes.upgrade() else {
            return Text::missing("metrics.txt", "the node stops");
        };
        let mut text = Text::new("metrics.txt", thinned(&eyes.text()));
        text.shorten(REPORT_BYTES_MAX, false);
        text
    }

    async fn diagnosis(&self) -> Vec<Text> {
        let mut texts = vec![
            Text::new("config.toml", self.config.clone()),
            self.log(),
            self.machine(),
            self.state(),
            self.storage().await,
        ];
        for text in &mut texts {
            text.text = scrub(&text.text);
            text.problem = scrub(&text.problem);
        }
        texts
    }
}

/// Without the buckets that say nothing: of several in a row that count the same the first and the last are enough. That
/// is most of it, as a histogram has a hundred.
fn thinned(text: &str) -> String {
    let bucket = |line: &'_ str| -> Option<(String, String)> {
        let (series, count) = line.rsplit_once(' ')?;
        let (series, _) = series.split_once("le=\"").filter(|_| series.contains("_bucket{"))?;
        Some((series.to_owned(), count.to_owned()))
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut thin = String::with_capacity(text.len() / 4);
    for (at, line) in lines.iter().enumerate() {
        let own = bucket(line);
        let is_same =
            |other: Option<&&str>| own.is_some() && other.and_then(|it| bucket(it)) == own;
        let before = at.checked_sub(1).and_then(|before| lines.get(before));
        if !(is_same(before) && is_same(lines.get(at + 1))) {
            thin.push_str(line);
            thin.push('\n');
        }
    }
    thin
}

fn pretty(name: &str, value: &Value) -> Text {
    Text::new(name, format!("{value:#}\n"))
}

/// The configuration that counts, without what only its owner may know.
fn without_secrets(config: &Config) -> String {
    let mut table = toml::Table::try_from(config).expect("the configuration has only plain values");
    for (_, value) in table.iter_mut() {
        if let toml::Value::String(text) = value {
            *text = without_userinfo(text);
        }
    }
    toml::to_string(&table).expect("it was a table before")
}

/// A URL may carry a name and a password in front of its host, and a key in its query.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    format!("{scheme}://{host}{path}")
}

/// Strikes out what looks like a secret: the digits of tokens, what stands behind `Bearer`, and private keys.
pub(super) fn scrub(text: &str) -> String {
    const STRUCK: &str = "[struck out]";
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    // A private key ends where it says so, or not at all.
    while let Some(begin) = rest.find("-----BEGIN ") {
        let (before, from) = rest.split_at(begin);
        clean.push_str(before);
        let is_key = from.lines().next().is_some_and(|line| line.contains("PRIVATE KEY-----"));
        let body = "-----BEGIN ".len();
        match (is_key, from.find("-----END ")) {
            (false, _) => {
                clean.push_str(&from[..body]);
                rest = &from[body..];
            }
            (true, Some(end)) => {
                clean.push_str(STRUCK);
                rest = &from[end + "-----END ".len()..];
                rest = rest.find("-----").map_or("", |end| &rest[end + 5..]);
            }
            (true, None) => {
                clean.push_str(STRUCK);
                rest = "";
            }
        }
    }
    clean.push_str(rest);
    let text = strike_behind(&clean, "tally_", |rest| {
        // `tally_ID_SECRET`: so many digits in a row, also where the end is cut.
        let id = rest.bytes().take_while(u8::is_ascii_digit).count();
        let secret = rest[id..].strip_prefix('_').filter(|_| id > 0)?;
        let digits = secret.bytes().take_while(u8::is_ascii_hexdigit).count();
        (digits >= SECRET_BYTES / 2).then_some((id + 1, digits))
    });
    strike_behind(&text, "earer ", |rest| {
        let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        (word >= SECRET_BYTES / 2).then_some((0, word))
    })
}

/// Strikes out what a word announces: so many bytes are left behind the word, and so many go.
fn strike_behind(
    text: &str,
    word: &str,
    secret: impl Fn(&str) -> Option<(usize, usize)>,
) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, behind) = rest.split_at(at + word.len());
        clean.push_str(before);
        rest = behind;
        if let Some((kept, gone)) = secret(behind) {
            clean.push_str(&behind[..kept]);
            clean.push_str("[struck out]");
            rest = &behind[kept + gone..];
        }
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::auth::secret::format_token;

    #[test]
    fn buckets_that_say_nothing_are_left_out() {
        let bucket = |method: &str, le: &str, count: u32| {
            format!("t_bucket{{method=\"{method}\",le=\"{le}\"}} {count}\n")
        };
        let a = |le, count| bucket("a", le, count);
        let all = [a("1", 0), a("2", 0), a("3", 0), a("4", 7), a("5", 7), a("+Inf", 7)];
        let other = bucket("b", "1", 7);
        let text = format!("# TYPE t histogram\n{}t_sum{{method=\"a\"}} 7\n{other}", all.concat());
        let thin = thinned(&text);
        assert_eq!(thin, text.replace(&all[1], "").replace(&all[4], ""));
    }

    #[test]
    fn what_looks_like_a_secret_is_struck_out() {
        let token = format_token(7, &[0xab; SECRET_BYTES]);
        let digits = "abababab";
        for text in [
            format!("before {token} after"),
            format!("before {} after", &token[..token.len() - 20]),
            format!("before authorization: Bearer {token} after"),
            format!("before bearer {} after", digits.repeat(5)),
            format!(
                "before -----BEGIN EC PRIVATE KEY-----\n{digits}\n-----END EC PRIVATE KEY----- after"
            ),
            format!("before -----BEGIN PRIVATE KEY-----\n{digits} after"),
        ] {
            let clean = scrub(&text);
            assert!(!clean.contains(digits), "{clean}");
            assert!(clean.starts_with("before ") && clean.contains("[struck out]"), "{clean}");
        }
        let twice = scrub(&format!("{token} and {token}"));
        assert_eq!(twice, "tally_7_[struck out] and tally_7_[struck out]");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        for harmless in ["tally_node=debug", "a bearer of news", "tally_1_00", certificate, ""] {
            assert_eq!(scrub(harmless), harmless);
        }
    }

    #[test]
    fn a_url_is_shown_without_what_only_its_owner_may_know() {
        for (url, shown) in [
            ("http://name:word@host:4317/path?key=1", "http://host:4317/path"),
            ("http://host:4317?key=1", "http://host:4317"),
            ("http://host:4317", "http://host:4317"),
            ("host:4317", "host:4317"),
        ] {
            assert_eq!(without_userinfo(url), shown);
        }
        let config = Config { client_listen: "x://a:planted@host".to_owned(), ..Config::default() };
        let text = without_secrets(&config);
        assert!(text.contains("x://host") && !text.contains("planted"), "{text}");
        let again: Config = toml::from_str(&text).expect("it stays a configuration");
        assert_eq!(again.heartbeat_interval_ms, config.heartbeat_interval_ms);
    }
}
