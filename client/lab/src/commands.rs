//! What can be done in the lab: the commands of the page, and of any other program that speaks JSON to it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    calls::{Ask, Level},
    clients::{self, Client, Clients},
    lab::{Call, Lab},
    links::{CLIENTS, DELAY_MS_MAX, Fault, LOSS_PERCENT_MAX, lock},
    nodes::Wrong,
};

/// The longest that a call by hand may wait.
const PATIENCE_MS_MAX: u64 = 10_000;

/// A name as long as a node takes it is a node's to refuse; this is for the page's sake.
const COUNTER_BYTES_MAX: usize = 64;

/// A clock is set wrong by at most this: about ten years.
pub(crate) const CLOCK_OFFSET_MS_MAX: u64 = 10 * 366 * 86_400_000;

/// A command.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Command {
    /// Changes a link: what is not given stays.
    Link {
        /// A node, or 0 for all clients.
        from: u64,
        to: u64,
        /// The other direction as well.
        #[serde(default)]
        both: bool,
        cut: Option<bool>,
        delay_ms: Option<u64>,
        loss_percent: Option<u8>,
    },
    /// Cuts that have a name.
    Cut {
        name: NamedCut,
    },
    /// All links are clean again.
    Heal,
    Kill {
        node: u64,
    },
    Pause {
        node: u64,
    },
    /// Starts a node that is dead; one that is paused goes on.
    Start {
        node: u64,
    },
    /// Fills a node's disk, or gives it room again.
    Disk {
        node: u64,
        full: bool,
    },
    /// Sets a node's wall clock: so far ahead of the others', or behind.
    Clock {
        node: u64,
        offset_ms: i64,
    },
    /// Starts a client.
    Client(Client),
    /// Ends a client, or all.
    EndClient {
        id: Option<u64>,
    },
    /// Meters begin anew.
    Measure,
    /// Healed, all nodes run on machines that are well, no clients.
    Reset,
    /// One call by hand.
    Call(ByHand),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NamedCut {
    /// The leader hears no other node, and none hears it.
    LeaderAlone,
    /// A follower is cut off from the others.
    FollowerAlone,
    /// The leader and a follower hear each other and nobody else. It takes five nodes to be a minority.
    MinorityOfTwo,
    /// No node reaches another.
    All,
    /// The two ends, of which the leader is one, do not reach each other; the node between reaches both.
    Bridge,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByHand {
    node: u64,
    /// Of a read; empty: it is an add.
    #[serde(default)]
    level: String,
    #[serde(default = "one")]
    delta: i64,
    #[serde(default = "clients::counter")]
    counter: String,
    /// An idempotency key.
    key: Option<String>,
    /// Of an earlier answer, for the level `session`.
    #[serde(default)]
    token: String,
    #[serde(default = "patience_ms")]
    patience_ms: u64,
}

fn one() -> i64 {
    1
}

fn patience_ms() -> u64 {
    1_000
}

/// Does a command, and says what came of it.
pub(crate) async fn run(lab: &Arc<Lab>, command: Command) -> Result<Value, String> {
    let is_there = |node: u64| match lab.nodes.has(node) {
        true => Ok(node),
        false => Err(format!("there is no node {node}")),
    };
    match command {
        Command::Link { from, to, both, cut, delay_ms, loss_percent } => {
            if delay_ms.is_some_and(|ms| ms > DELAY_MS_MAX) {
                return Err(format!("delay_ms: 0 to {DELAY_MS_MAX}"));
            }
            if loss_percent.is_some_and(|percent| percent > LOSS_PERCENT_MAX) {
                return Err(format!("loss_percent: 0 to {LOSS_PERCENT_MAX}"));
            }
            let change = |fault: &mut Fault| {
                fault.cut = cut.unwrap_or(fault.cut);
                fault.delay_ms = delay_ms.unwrap_or(fault.delay_ms);
                fault.loss_percent = loss_percent.unwrap_or(fault.loss_percent);
            };
            let changed = lab.links.change(from, to, change);
            if !changed || (both && !lab.links.change(to, from, change)) {
                return Err(format!("there is no link from {from} to {to}"));
            }
            lab.tell(0, link_told(from, to, both, (cut, delay_ms, loss_percent)));
        }
        Command::Cut { name } => return named_cut(lab, name),
        Command::Heal => {
            lab.links.heal();
            lab.tell(0, "all links are clean");
        }
        Command::Kill { node } => {
            lab.nodes.kill(is_there(node)?);
            lab.tell(0, format!("node {node} is killed"));
        }
        Command::Pause { node } => {
            lab.nodes.pause(is_there(node)?, true).map_err(|error| error.to_string())?;
            lab.tell(0, format!("node {node} is paused"));
        }
        Command::Start { node } => {
            lab.nodes.start_one(is_there(node)?).map_err(|error| error.to_string())?;
            lab.tell(0, format!("node {node} goes on"));
        }
        Command::Disk { node, full } => {
            let wrong = Wrong { disk_full: full, ..lab.nodes.wrong(is_there(node)?) };
            lab.nodes.set_wrong(node, wrong).map_err(|error| error.to_string())?;
            let told = if full { "is full" } else { "has room again" };
            lab.tell(0, format!("the disk of node {node} {told}"));
        }
        Command::Clock { node, offset_ms } => {
            if offset_ms.unsigned_abs() > CLOCK_OFFSET_MS_MAX {
                return Err(format!("offset_ms: -{CLOCK_OFFSET_MS_MAX} to {CLOCK_OFFSET_MS_MAX}"));
            }
            let wrong = Wrong { clock_offset_ms: offset_ms, ..lab.nodes.wrong(is_there(node)?) };
            lab.nodes.set_wrong(node, wrong).map_err(|error| error.to_string())?;
            lab.tell(0, format!("the clock of node {node} is {}", clock_told(offset_ms)));
        }
        Command::Client(client) => return Ok(json!({ "id": Clients::add(lab, client)? })),
        Command::EndClient { id } => lab.clients.remove(id),
        Command::Measure => measure(lab),
        Command::Reset => {
            lab.links.heal();
            lab.clients.remove(None);
            for node in lab.nodes.ids() {
                lab.nodes.set_wrong(node, Wrong::default()).map_err(|error| error.to_string())?;
                lab.nodes.start_one(node).map_err(|error| error.to_string())?;
            }
            measure(lab);
            lab.tell(0, "all links are clean, all nodes run, no clients");
        }
        Command::Call(call) => {
            is_there(call.node)?;
            return by_hand(lab, call).await;
        }
    }
    Ok(json!({}))
}

fn measure(lab: &Lab) {
    let now = lab.now();
    lock(&lab.journal).measured_from = now;
}

async fn by_hand(lab: &Lab, call: ByHand) -> Result<Value, String> {
    if !(1..=PATIENCE_MS_MAX).contains(&call.patience_ms) {
        return Err(format!("patience_ms: 1 to {PATIENCE_MS_MAX}"));
    }
    if call.delta < 1 {
        return Err("delta: 1 or more, as reads are judged by values that grow".to_owned());
    }
    if call.counter.len() > COUNTER_BYTES_MAX {
        return Err(format!("counter: at most {COUNTER_BYTES_MAX} bytes"));
    }
    let token = clients::bytes_of(&call.token).ok_or("token: hexadecimal digits")?;
    let ask = match call.level.as_str() {
        "" => Ask::Add { delta: call.delta, key: call.key },
        level => Ask::Get { level: Level::parse(level, token)? },
    };
    let patience = Duration::from_millis(call.patience_ms);
    let (node, counter) = (call.node, call.counter.as_str());
    let call = Call { client: CLIENTS, node, counter, ask: &ask, patience };
    let (record, token) = lab.call_for_token(call).await;
    let mut told = serde_json::to_value(record).expect("plain values");
    told["token"] = clients::digits_of(&token).into();
    Ok(told)
}

fn place(id: u64) -> String {
    if id == CLIENTS { "clients".to_owned() } else { format!("node {id}") }
}

/// How far a clock is off, in words.
pub(crate) fn clock_told(offset_ms: i64) -> String {
    let seconds = offset_ms.unsigned_abs() as f64 / 1000.0;
    match offset_ms {
        0 => "right".to_owned(),
        1.. => format!("{seconds} s ahead"),
        _ => format!("{seconds} s behind"),
    }
}

fn link_told(
    from: u64,
    to: u64,
    both: bool,
    (cut, delay_ms, loss_percent): (Option<bool>, Option<u64>, Option<u8>),
) -> String {
    let mut told = Vec::new();
    told.extend(cut.map(|cut| if cut { "cut" } else { "not cut" }.to_owned()));
    told.extend(delay_ms.map(|ms| format!("{ms} ms slow")));
    told.extend(loss_percent.map(|percent| format!("loses {percent} %")));
    let way = if both { "and" } else { "to" };
    format!("link {} {way} {}: {}", place(from), place(to), told.join(", "))
}

/// The node that leads now: of those that say so the one of the highest term.
pub(crate) fn leader(lab: &Lab) -> Option<u64> {
    let watched = lock(&lab.watched);
    let leads = watched.iter().filter(|(_, said)| said.answers && said.role == "leader");
    leads.max_by_key(|(_, said)| said.term).map(|(id, _)| *id)
}

fn named_cut(lab: &Lab, name: NamedCut) -> Result<Value, String> {
    if matches!(name, NamedCut::MinorityOfTwo) && lab.nodes.ids().count() < 5 {
        return Err("two are a minority of five nodes or more: `tallyd lab --nodes 5`".to_owned());
    }
    let leader = leader(lab).ok_or("no node leads at the moment")?;
    let follower =
        lab.nodes.ids().rev().find(|id| *id != leader).ok_or("there is one node only")?;
    lab.links.heal();
    let is_of_two = |node: u64| node == leader || node == follower;
    let is_cut = |from: u64, to: u64| match name {
        NamedCut::LeaderAlone => from == leader || to == leader,
        NamedCut::FollowerAlone => from == follower || to == follower,
        NamedCut::MinorityOfTwo => is_of_two(from) != is_of_two(to),
        NamedCut::All => true,
        NamedCut::Bridge => (from, to) == (leader, follower) || (to, from) == (leader, follower),
    };
    for from in lab.nodes.ids() {
        for to in lab.nodes.ids().filter(|to| *to != from && is_cut(from, *to)) {
            lab.links.change(from, to, |fault| fault.cut = true);
        }
    }
    let told = match name {
        NamedCut::LeaderAlone => format!("node {leader}, which leads, is cut off from the others"),
        NamedCut::FollowerAlone => {
            format!("node {follower}, a follower, is cut off from the others")
        }
        NamedCut::MinorityOfTwo => {
            format!("nodes {leader}, which leads, and {follower} are cut off from the others")
        }
        NamedCut::All => "no node reaches another".to_owned(),
        NamedCut::Bridge => {
            format!("nodes {leader} and {follower} do not reach each other, all others do")
        }
    };
    lab.tell(0, told);
    Ok(json!({ "leader": leader, "follower": follower }))
}
