//! A plan: which faults strike when, for how long, and whom. It is drawn from a seed or read from a file, and one line
//! of text is one fault, so that a plan that has found something is kept, edited and given back.
//!
//! ```text
//! # comments
//! every 60s
//! at 2.5s for 1.2s cut leader
//! at 6s for 3s kill node 2
//! at 8s for 1s one-way follower 2 to leader
//! at 11s for 2s slow follower 150ms
//! at 14s for 5s clock leader +1h
//! ```
//!
//! Who leads is found out when a fault strikes: nodes are real processes, and two runs of a plan elect whom they
//! elect.

use std::fmt;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::{
    commands::CLOCK_OFFSET_MS_MAX,
    links::{DELAY_MS_MAX, LOSS_PERCENT_MAX},
};

/// The longest line that is read.
const LINE_BYTES_MAX: usize = 200;

/// The most lines of a plan.
const FAULTS_MAX: usize = 1_000;

/// The longest plan, and the longest fault.
const LENGTH_MS_MAX: u64 = 3_600_000;

/// How long a drawn plan is before the next part of it is drawn.
const DRAWN_MS: u64 = 60_000;

/// Whom a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Whoever leads.
    Leader,
    /// The n-th of those who do not, from 0, by their ids.
    Follower(u64),
    /// This one.
    Node(u64),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed, and started again.
    Kill(Target),
    /// All processes are.
    KillAll,
    /// The process stands still.
    Pause(Target),
    /// It hears no other node, and none hears it; clients reach it.
    Cut(Target),
    /// No node hears another.
    CutAll,
    /// What the first sends does not reach the second.
    OneWay(Target, Target),
    /// Clients do not reach it.
    CutClients(Target),
    /// Requests of clients reach it, and its answers are lost with their connections.
    LoseAnswers(Target),
    /// What it and other nodes send to each other takes so many ms longer.
    Slow(Target, u64),
    /// What it answers clients takes so many ms longer.
    SlowAnswers(Target, u64),
    /// So many percent of what it and other nodes send to each other are lost, and sent again by TCP.
    Lossy(Target, u8),
    /// Nothing is free on its disk.
    FullDisk(Target),
    /// Its wall clock steps forward so many ms, or back, and back again in the end.
    Clock(Target, i64),
}

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, in ms since the plan does.
    pub at_ms: u64,
    /// How long it lasts.
    pub for_ms: u64,
    /// What happens.
    pub fault: Fault,
}

/// A plan, which is repeated for as long as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// After this it begins again.
    pub length_ms: u64,
    /// In the order of their times.
    pub faults: Vec<Planned>,
}

/// How hard a drawn plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One fault at a time, and a majority is always well: a service should hardly notice.
    Gentle,
    /// Several at once, and sometimes no majority: a service must get through.
    Rough,
}

/// How far drawn clocks step, either way: a second, which NTP does, an hour, as where daylight saving is done by hand,
/// and a day.
const CLOCK_STEPS_MS: [i64; 6] = [1_000, 3_600_000, 86_400_000, -1_000, -3_600_000, -86_400_000];

/// Where plans come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Drawn(Style, u64),
    Given(Plan),
}

impl Source {
    /// The plan of a round: each has its own if it is drawn.
    pub(crate) fn round(&self, round: u64) -> Plan {
        match self {
            Source::Given(plan) => plan.clone(),
            Source::Drawn(style, seed) => draw(*style, *seed, round),
        }
    }
}

fn draw(style: Style, seed: u64, round: u64) -> Plan {
    // Rounds and seeds that are neighbours have nothing in common.
    let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round << 32);
    let mut faults = Vec::new();
    // The first ones find a cluster that serves.
    let mut at_ms = 1_500;
    loop {
        let (fault, for_ms) = match style {
            Style::Gentle => (gentle(&mut rng), rng.random_range(300..2_000)),
            Style::Rough => (rough(&mut rng), rng.random_range(300..6_000)),
        };
        if at_ms + for_ms > DRAWN_MS {
            return Plan { length_ms: DRAWN_MS, faults };
        }
        faults.push(Planned { at_ms, for_ms, fault });
        at_ms += match style {
            // The next one comes when the cluster is well again.
            Style::Gentle => for_ms + rng.random_range(3_000..6_000),
            Style::Rough => rng.random_range(500..4_500),
        };
    }
}

fn target(rng: &mut SmallRng) -> Target {
    *[Target::Leader, Target::Leader, Target::Follower(0)].choose(rng).expect("not empty")
}

fn gentle(rng: &mut SmallRng) -> Fault {
    let at = target(rng);
    match rng.random_range(0..9) {
        0 => Fault::Kill(at),
        1 => Fault::Pause(at),
        2 => Fault::Cut(at),
        3 => Fault::CutClients(at),
        4 | 5 => Fault::LoseAnswers(at),
        6 => Fault::SlowAnswers(at, rng.random_range(20..400)),
        7 => Fault::Clock(at, *CLOCK_STEPS_MS.choose(rng).expect("not empty")),
        _ => Fault::Slow(at, rng.random_range(5..100)),
    }
}

fn rough(rng: &mut SmallRng) -> Fault {
    let at = target(rng);
    match rng.random_range(0..18) {
        0..3 => Fault::Kill(at),
        3 => Fault::KillAll,
        4 | 5 => Fault::Pause(at),
        6 | 7 => Fault::Cut(at),
        8 => Fault::CutAll,
        9 => Fault::OneWay(Target::Leader, Target::Follower(0)),
        10 => Fault::OneWay(Target::Follower(0), Target::Leader),
        11 => Fault::CutClients(at),
        12 | 13 => Fault::LoseAnswers(at),
        14 => Fault::Slow(at, rng.random_range(20..800)),
        15 => Fault::FullDisk(at),
        16 => Fault::Clock(at, *CLOCK_STEPS_MS.choose(rng).expect("not empty")),
        _ => Fault::Lossy(at, rng.random_range(2..30)),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Leader => f.write_str("leader"),
            Target::Follower(0) => f.write_str("follower"),
            Target::Follower(at) => write!(f, "follower {}", at + 1),
            Target::Node(id) => write!(f, "node {id}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(at) => write!(f, "kill {at}"),
            Fault::KillAll => f.write_str("kill all"),
            Fault::Pause(at) => write!(f, "pause {at}"),
            Fault::Cut(at) => write!(f, "cut {at}"),
            Fault::CutAll => f.write_str("cut all"),
            Fault::OneWay(from, to) => write!(f, "one-way {from} to {to}"),
            Fault::CutClients(at) => write!(f, "cut-clients {at}"),
            Fault::LoseAnswers(at) => write!(f, "lose-answers {at}"),
            Fault::Slow(at, ms) => write!(f, "slow {at} {ms}ms"),
            Fault::SlowAnswers(at, ms) => write!(f, "slow-answers {at} {ms}ms"),
            Fault::Lossy(at, percent) => write!(f, "lossy {at} {percent}%"),
            Fault::FullDisk(at) => write!(f, "full-disk {at}"),
            Fault::Clock(at, ms) => {
                let sign = if *ms < 0 { '-' } else { '+' };
                write!(f, "clock {at} {sign}{}", time(ms.unsigned_abs()))
            }
        }
    }
}

/// As it is read.
fn time(ms: u64) -> String {
    match ms {
        _ if !ms.is_multiple_of(1_000) => format!("{ms}ms"),
        _ if ms == 0 || !ms.is_multiple_of(3_600_000) => format!("{}s", ms / 1_000),
        _ => format!("{}h", ms / 3_600_000),
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} for {} {}", time(self.at_ms), time(self.for_ms), self.fault)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "every {}", time(self.length_ms))?;
        self.faults.iter().try_for_each(|planned| writeln!(f, "{planned}"))
    }
}

/// A time as it is written.
fn time_of(text: &str, longest_ms: u64) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time such as 2s, 1.5s, 300ms or 1h");
    let units = [("ms", 1.0), ("s", 1_000.0), ("h", 3_600_000.0)];
    let mut found = units.iter().filter_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)));
    let (number, unit_ms) = found.next().ok_or_else(wrong)?;
    let ms = number.parse::<f64>().map_err(|_| wrong())? * unit_ms;
    if !(0.0..=longest_ms as f64).contains(&ms) {
        return Err(format!("{text:?}: from 0 to {}", time(longest_ms)));
    }
    Ok(ms as u64)
}

/// Words of a line, one after the other.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn time(&mut self) -> Result<u64, String> {
        let text = self.next("a time")?;
        time_of(text, LENGTH_MS_MAX)
    }

    /// How far a clock steps.
    fn step(&mut self) -> Result<i64, String> {
        let text = self.next("a step, +1h or -5s,")?;
        let ms = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(far), _) => time_of(far, CLOCK_OFFSET_MS_MAX)?.cast_signed(),
            (None, Some(far)) => -time_of(far, CLOCK_OFFSET_MS_MAX)?.cast_signed(),
            (None, None) => return Err(format!("{text:?} is no step such as +1h or -5s")),
        };
        if ms == 0 { Err("a clock that steps by nothing".to_owned()) } else { Ok(ms) }
    }

    /// Which of them, if it is said: the first without.
    fn follower(&mut self, nodes: u64) -> Result<Target, String> {
        let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let Some(text) = self.0.clone().next().filter(is_number) else {
            return Ok(Target::Follower(0));
        };
        self.0.next();
        let at = text.parse().ok().filter(|at| (1..nodes).contains(at));
        let at = at.ok_or_else(|| format!("{text:?} is no follower of 1 to {}", nodes - 1))?;
        Ok(Target::Follower(at - 1))
    }

    fn target(&mut self, nodes: u64) -> Result<Target, String> {
        match self.next("leader, follower or node N")? {
            "leader" => Ok(Target::Leader),
            "follower" => self.follower(nodes),
            "node" => {
                let text = self.next("the node's id")?;
                let id = text.parse().ok().filter(|id| (1..=nodes).contains(id));
                id.map(Target::Node).ok_or_else(|| format!("{text:?} is no node of 1 to {nodes}"))
            }
            other => Err(format!("{other:?} is none of leader, follower, node N")),
        }
    }

    fn ms(&mut self) -> Result<u64, String> {
        let ms = self.time()?;
        match (1..=DELAY_MS_MAX).contains(&ms) {
            true => Ok(ms),
            false => Err(format!("from 1ms to {}", time(DELAY_MS_MAX))),
        }
    }

    fn percent(&mut self) -> Result<u8, String> {
        let text = self.next("percent")?;
        let percent = text.strip_suffix('%').and_then(|text| text.parse().ok());
        let percent = percent.filter(|percent| (1..=LOSS_PERCENT_MAX).contains(percent));
        percent.ok_or_else(|| format!("{text:?}: 1% to {LOSS_PERCENT_MAX}%"))
    }
}

fn fault(words: &mut Words<'_>, nodes: u64) -> Result<Fault, String> {
    let name = words.next("a fault")?;
    let all = |words: &Words<'_>| words.0.clone().next() == Some("all");
    Ok(match name {
        "kill" if all(words) => {
            words.next("all")?;
            Fault::KillAll
        }
        "cut" if all(words) => {
            words.next("all")?;
            Fault::CutAll
        }
        "kill" => Fault::Kill(words.target(nodes)?),
        "pause" => Fault::Pause(words.target(nodes)?),
        "cut" => Fault::Cut(words.target(nodes)?),
        "one-way" => {
            let from = words.target(nodes)?;
            let to = words.next("to")?;
            if to != "to" {
                return Err(format!("{to:?}: one-way A to B"));
            }
            Fault::OneWay(from, words.target(nodes)?)
        }
        "cut-clients" => Fault::CutClients(words.target(nodes)?),
        "lose-answers" => Fault::LoseAnswers(words.target(nodes)?),
        "slow" => Fault::Slow(words.target(nodes)?, words.ms()?),
        "slow-answers" => Fault::SlowAnswers(words.target(nodes)?, words.ms()?),
        "lossy" => Fault::Lossy(words.target(nodes)?, words.percent()?),
        "full-disk" => Fault::FullDisk(words.target(nodes)?),
        "clock" => Fault::Clock(words.target(nodes)?, words.step()?),
        other => {
            return Err(format!(
                "{other:?} is none of kill, pause, cut, one-way, cut-clients, lose-answers, slow, slow-answers, lossy, full-disk, clock"
            ));
        }
    })
}

impl Plan {
    /// Reads one for a cluster of so many nodes.
    pub fn parse(text: &str, nodes: u64) -> Result<Plan, String> {
        let mut length_ms = None;
        let mut faults = Vec::new();
        for (at, line) in (1..).zip(text.lines()) {
            let said = line.split('#').next().unwrap_or_default().trim();
            if said.is_empty() {
                continue;
            }
            let wrong = |why: String| format!("line {at}: {why}");
            if said.len() > LINE_BYTES_MAX || faults.len() >= FAULTS_MAX {
                return Err(wrong("it is too long".to_owned()));
            }
            let words = &mut Words(said.split_whitespace());
            match words.next("a word").map_err(wrong)? {
                "every" => length_ms = Some(words.time().map_err(wrong)?),
                "at" => faults.push(planned(words, nodes).map_err(wrong)?),
                other => return Err(wrong(format!("{other:?}: it begins with `at` or `every`"))),
            }
            if let Some(more) = words.0.next() {
                return Err(wrong(format!("{more:?} is one word too many")));
            }
        }
        faults.sort_by_key(|planned| planned.at_ms);
        let end_ms = faults.iter().map(|planned| planned.at_ms + planned.for_ms).max();
        let end_ms = end_ms.ok_or("there is no fault in it")?;
        let length_ms = length_ms.unwrap_or(end_ms + 1_000);
        if length_ms < end_ms {
            return Err(format!("its last fault ends at {}, behind `every`", time(end_ms)));
        }
        Ok(Plan { length_ms, faults })
    }
}

fn planned(words: &mut Words<'_>, nodes: u64) -> Result<Planned, String> {
    let at_ms = words.time()?;
    let with = words.next("for")?;
    if with != "for" {
        return Err(format!("{with:?}: at TIME for TIME FAULT"));
    }
    let for_ms = words.time()?;
    // So a plan has a length, too, in which it is played.
    if for_ms == 0 {
        return Err("a fault that lasts for no time".to_owned());
    }
    Ok(Planned { at_ms, for_ms, fault: fault(words, nodes)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_the_same_for_a_seed_and_is_read_again() {
        for style in [Style::Gentle, Style::Rough] {
            let source = Source::Drawn(style, 7);
            for round in 0..200 {
                let plan = source.round(round);
                assert_eq!(plan, source.round(round));
                assert!(plan.faults.len() >= 5, "{plan}");
                assert_eq!(Plan::parse(&plan.to_string(), 3), Ok(plan));
            }
            assert_ne!(source.round(0), source.round(1));
            assert_ne!(source.round(0), Source::Drawn(style, 8).round(0));
        }
    }

    #[test]
    fn a_gentle_plan_is_one_fault_at_a_time_and_leaves_a_majority() {
        for seed in 0..100 {
            let plan = Source::Drawn(Style::Gentle, seed).round(0);
            for pair in plan.faults.windows(2) {
                assert!(pair[0].at_ms + pair[0].for_ms + 3_000 <= pair[1].at_ms, "{plan}");
            }
            let is_hard = |fault: Fault| matches!(fault, Fault::KillAll | Fault::CutAll);
            assert!(!plan.faults.iter().any(|planned| is_hard(planned.fault)));
        }
    }

    #[test]
    fn each_wrong_line_is_named_with_what_is_wrong() {
        for (text, says) in [
            ("", "no fault"),
            ("at 1s for 1s explode leader", "line 1: \"explode\" is none of kill"),
            ("\nat 1s for 1s kill node 4", "line 2: \"4\" is no node of 1 to 3"),
            ("at 1s for 1s kill follower 3", "\"3\" is no follower of 1 to 2"),
            ("at 1s for 1s kill follower 0", "\"0\" is no follower of 1 to 2"),
            ("at 1s for 1s slow follower 20", "\"20\" is no follower"),
            ("at 0s for 0s kill leader", "a fault that lasts for no time"),
            ("every 0s\nat 0s for 0.5ms kill leader", "line 2: a fault that lasts for no time"),
            ("at 1s for 1s kill", "leader, follower or node N is missing"),
            ("at one for 1s kill leader", "\"one\" is no time"),
            ("at 1s for 1s slow leader", "a time is missing"),
            ("at 1s for 1s slow leader 9s", "from 1ms to 5s"),
            ("at 1s for 1s lossy leader 95%", "1% to 90%"),
            ("at 1s for 1s clock leader", "a step, +1h or -5s, is missing"),
            ("at 1s for 1s clock leader 1h", "is no step such as +1h"),
            ("at 1s for 1s clock leader +0s", "steps by nothing"),
            ("at 1s for 1s clock leader +99999h", "from 0 to 87840h"),
            ("at 1s for 1s full-disk", "leader, follower or node N is missing"),
            ("at 1s for 1s kill leader now", "\"now\" is one word too many"),
            ("at 1s during 1s kill leader", "at TIME for TIME FAULT"),
            ("every 5s\nat 4s for 2s kill leader", "behind `every`"),
            ("sometimes kill leader", "it begins with `at` or `every`"),
            ("at -1s for 1s kill leader", "from 0 to"),
        ] {
            let told = Plan::parse(text, 3).expect_err(text);
            assert!(told.contains(says), "{text:?}: {told}");
        }
        let plan = Plan::parse("at 1.5s for 300ms one-way leader to node 2 # half\n", 3).unwrap();
        let fault = Fault::OneWay(Target::Leader, Target::Node(2));
        let clock = Plan::parse("at 1s for 1s clock leader -1.5h", 3).unwrap().faults[0].fault;
        assert_eq!(clock, Fault::Clock(Target::Leader, -5_400_000));
        assert_eq!(clock.to_string(), "clock leader -5400s");
        assert_eq!(plan.faults, [Planned { at_ms: 1_500, for_ms: 300, fault }]);
        assert_eq!(plan.length_ms, 2_800);
        let text =
            "at 1s for 1s one-way follower 4 to follower 1\nat 1s for 1s slow follower 2 20ms";
        let plan = Plan::parse(text, 5).unwrap();
        assert_eq!(plan.faults[0].fault, Fault::OneWay(Target::Follower(3), Target::Follower(0)));
        assert_eq!(plan.faults[1].fault, Fault::Slow(Target::Follower(1), 20));
        assert_eq!(Plan::parse(&plan.to_string(), 5), Ok(plan));
    }
}
