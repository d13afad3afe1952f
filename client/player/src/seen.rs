//! What was seen of the nodes: whoever watches says it as often as he looks, and what changed is kept.

use std::collections::BTreeMap;

use super::{Message, Window, window_of, windows_of};

/// Last log index, commit index and applied index of a node.
pub type Log = (u64, u64, u64);

/// What was seen of the nodes of a run. Times are ms since it began, and do not go back.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    role: BTreeMap<u64, (&'static str, u64)>,
    log: BTreeMap<u64, Log>,
    pub(super) roles: Vec<(u64, u64, &'static str, u64)>,
    logs: Vec<(u64, u64, Log)>,
    pub(super) cuts: Vec<(u64, Vec<(u64, u64)>)>,
    /// Messages between nodes, with the time since the run began.
    pub messages: Vec<Message>,
}

impl Seen {
    /// The role of a node and its term.
    pub fn role(&mut self, ms: u64, node: u64, role: &'static str, term: u64) {
        if self.role.insert(node, (role, term)) != Some((role, term)) {
            self.roles.push((ms, node, role, term));
        }
    }

    /// Its log.
    pub fn log(&mut self, ms: u64, node: u64, log: Log) {
        if self.log.insert(node, log) != Some(log) {
            self.logs.push((ms, node, log));
        }
    }

    /// All directions between nodes in which messages are lost.
    pub fn cut(&mut self, ms: u64, cut: Vec<(u64, u64)>) {
        let is_new = self.cuts.last().map_or(!cut.is_empty(), |(_, before)| *before != cut);
        if is_new {
            self.cuts.push((ms, cut));
        }
    }

    /// Whether a node was seen before.
    pub fn knows(&self, node: u64) -> bool {
        self.role.contains_key(&node)
    }

    pub(super) fn nodes(&self) -> Vec<u64> {
        self.role.keys().copied().collect()
    }

    /// Logs and messages, by window.
    pub(super) fn windows(&self, lasted_ms: u64) -> Vec<Window> {
        let mut windows = vec![Window::default(); windows_of(lasted_ms)];
        let mut last = BTreeMap::new();
        let mut logs = self.logs.iter().peekable();
        for (at, window) in windows.iter_mut().enumerate() {
            let carried = last.iter().map(|(id, log): (&u64, &Log)| (0, *id, log.0, log.1, log.2));
            window.logs.extend(carried);
            while let Some((ms, id, log)) = logs.next_if(|log| window_of(log.0, lasted_ms).0 == at)
            {
                last.insert(*id, *log);
                let within = ms - window_of(*ms, lasted_ms).1;
                window.logs.push((within, *id, log.0, log.1, log.2));
            }
        }
        for (from, to, sent, took, has) in &self.messages {
            let (window, from_ms) = window_of(*sent, lasted_ms);
            windows[window].messages.push((*from, *to, sent - from_ms, *took, *has));
        }
        windows
    }
}
