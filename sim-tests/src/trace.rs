//! What happened, line by line: simulated time, node, event.
//!
//! Everything that a simulation does ends as a line here, so two runs of a seed can be compared
//! whole. Each line goes into a digest; a run that nobody looks at keeps no more than that.
//!
//! How much becomes a line is chosen by [`Detail`]. At [`Detail::Everything`] it is also every
//! message of the network and every log line of node and client, which is what the determinism
//! check compares. Of the bytes that a node reads and writes on its connections there is a digest.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::Write as _,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::env::{observed, simulated_now};

/// How much becomes part of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Faults, roles, starts and ends of processes, operations of clients.
    Events,
    /// … and what node and client log.
    Logs,
    /// … and every message of the network.
    Everything,
}

/// What becomes of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Only their digest.
    Digest,
    /// … and each is printed as it comes, so that a run that hangs shows where.
    Print,
    /// … and those that a story is told from.
    Story,
    /// … and these, and what passed on the network (which is part of the trace at [`Detail::Everything`] only).
    Recording,
}

/// A line that a story is told from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// When, in simulated ms.
    pub ms: u64,
    /// Who.
    pub who: String,
    /// What.
    pub what: String,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It was sent.
    Sent,
    /// It is where it was sent to.
    Arrived,
}

/// A message that passed on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// When, in simulated ms.
    pub ms: u64,
    /// What became of it.
    pub what: Passage,
    /// Where it is from.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// What nodes say in it: bits, as [`tally_player::Message`] has them.
    pub has: u8,
}

impl Passed {
    /// `Send src=192.168.0.1:7501 dst=192.168.0.2:1025 TCP`, as turmoil logs it.
    fn read(ms: u64, text: &str) -> Option<Passed> {
        let mut words = text.split(' ');
        let what = match words.next()? {
            "Send" => Passage::Sent,
            "Delivered" => Passage::Arrived,
            _ => return None,
        };
        let from = words.next()?.strip_prefix("src=")?.parse().ok()?;
        let to = words.next()?.strip_prefix("dst=")?.parse().ok()?;
        Some(Passed { ms, what, from, to, has: 0 })
    }
}

thread_local! {
    static TRACE: RefCell<Option<Rc<RefCell<Trace>>>> = const { RefCell::new(None) };
}

/// The trace of one simulation.
#[derive(Debug)]
pub struct Trace {
    keep: Keep,
    /// As the driver last set it, for events outside of any host.
    now: Duration,
    digest: u64,
    count: u64,
    line: String,
    /// The simulated ms of the last line, and how many lines it has had.
    busy: (u128, u64),
    heard: Vec<Heard>,
    passed: Vec<Passed>,
}

/// More lines than this in one simulated millisecond are a loop that does not wait.
const LINES_PER_MS_MAX: u64 = 200_000;

/// What is left of a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Digest of all lines in their order.
    pub digest: u64,
    /// How many there were.
    pub count: u64,
}

/// Holds the thread's trace; ends it when it is dropped.
#[derive(Debug)]
pub struct Guard {
    _subscriber: tracing::subscriber::DefaultGuard,
}

impl Drop for Guard {
    fn drop(&mut self) {
        TRACE.with_borrow_mut(|trace| *trace = None);
    }
}

/// Begins this thread's trace.
pub fn begin(detail: Detail, keep: Keep) -> Guard {
    observed::forget();
    let trace = Trace {
        keep,
        now: Duration::ZERO,
        digest: FNV_OFFSET,
        count: 0,
        line: String::new(),
        busy: (0, 0),
        heard: Vec::new(),
        passed: Vec::new(),
    };
    TRACE.with_borrow_mut(|slot| *slot = Some(Rc::new(RefCell::new(trace))));
    let logs = Logs {
        detail,
        records: keep == Keep::Recording,
        hosts: Mutex::default(),
        next_span: AtomicU64::new(1),
    };
    Guard { _subscriber: tracing::subscriber::set_default(logs) }
}

/// What this thread's trace comes to so far.
pub fn recorded() -> Recorded {
    let trace = current().expect("a trace was begun on this thread");
    let trace = trace.borrow();
    Recorded { digest: trace.digest, count: trace.count }
}

/// What a story is told from, if it was kept.
pub fn heard() -> Vec<Heard> {
    current().map_or_else(Vec::new, |trace| std::mem::take(&mut trace.borrow_mut().heard))
}

/// What passed on the network, if that was kept.
pub fn passed() -> Vec<Passed> {
    current().map_or_else(Vec::new, |trace| std::mem::take(&mut trace.borrow_mut().passed))
}

/// Whether what passes on the network is kept.
pub(crate) fn is_recording() -> bool {
    current().is_some_and(|trace| trace.borrow().keep == Keep::Recording)
}

/// What is in the message that this thread has sent last, if it is one from there to there.
pub(crate) fn sent_has(from: SocketAddr, to: SocketAddr, has: u8) {
    let Some(trace) = current() else { return };
    let mut trace = trace.borrow_mut();
    if let Some(last) = trace.passed.last_mut()
        && (last.what, last.from, last.to) == (Passage::Sent, from, to)
    {
        last.has = has;
    }
}

fn passes(text: &str) {
    let Some(trace) = current() else { return };
    let Ok(mut trace) = trace.try_borrow_mut() else { return };
    let now = simulated_now().unwrap_or(trace.now);
    trace.passed.extend(Passed::read(now.as_millis() as u64, text));
}

/// Tells the trace what time it is, outside of any host.
pub fn set_now(now: Duration) {
    if let Some(trace) = current() {
        trace.borrow_mut().now = now;
    }
}

/// Adds a line.
pub fn event(who: &str, what: fmt::Arguments<'_>) {
    let Some(trace) = current() else { return };
    // A line is made while nothing else can add one, as everything is on this thread; a Display
    // that logs would be the exception, and its line is left out.
    let Ok(mut trace) = trace.try_borrow_mut() else { return };
    let now = simulated_now().unwrap_or(trace.now);
    let trace = &mut *trace;
    trace.line.clear();
    let (ms, us) = (now.as_millis(), now.subsec_micros() % 1000);
    let _ = write!(trace.line, "{ms:>6}.{us:03} {who:<8} {what}");
    trace.count += 1;
    trace.busy = if trace.busy.0 == ms { (ms, trace.busy.1 + 1) } else { (ms, 1) };
    let livelock = trace.busy.1 == LINES_PER_MS_MAX;
    let hash = fnv(FNV_OFFSET, trace.line.as_bytes());
    trace.digest = fnv(trace.digest, &hash.to_le_bytes());
    match trace.keep {
        Keep::Digest => {}
        // Whoever closes the pipe has seen enough.
        Keep::Print => drop(writeln!(std::io::stdout(), "{}", trace.line)),
        Keep::Story | Keep::Recording => {
            let what = what.to_string();
            if crate::story::is_news(who, &what) {
                trace.heard.push(Heard { ms: ms as u64, who: who.to_owned(), what });
            }
        }
    }
    assert!(!livelock, "{LINES_PER_MS_MAX} events at simulated ms {ms}: something does not wait");
}

/// Bytes on a wire, told as a digest.
#[derive(Debug)]
pub struct Digest<'a>(pub &'a [u8]);

impl fmt::Display for Digest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", fnv(FNV_OFFSET, self.0))
    }
}

fn current() -> Option<Rc<RefCell<Trace>>> {
    TRACE.with_borrow(Clone::clone)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, by words: it must be fast and the same everywhere, not hard to invert.
fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}

/// Turns what is logged into lines.
struct Logs {
    detail: Detail,
    /// What passes on the network is kept, whether or not it is part of the trace.
    records: bool,
    /// The spans that turmoil enters while it runs a host, by their ids.
    hosts: Mutex<Hosts>,
    next_span: AtomicU64,
}

#[derive(Default)]
struct Hosts {
    names: BTreeMap<u64, String>,
    entered: Vec<u64>,
}

impl Logs {
    fn hosts(&self) -> std::sync::MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_host_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == "turmoil" && metadata.name() == "node"
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if is_host_span(metadata) {
            return self.detail >= Detail::Logs;
        }
        if metadata.is_span() {
            return false;
        }
        let target = metadata.target();
        let level = *metadata.level();
        let of = |prefix: &str| target.starts_with(prefix);
        // It prints tokio's clock, which counts from the real one. What it does shows in the rest.
        if of("openraft") || of("openraft_rt") {
            return false;
        }
        if self.records && target == "turmoil" {
            return true;
        }
        match self.detail {
            Detail::Events => false,
            Detail::Logs => (of("tally") && level <= Level::DEBUG) || level <= Level::WARN,
            Detail::Everything => {
                of("tally") || (of("turmoil") && level <= Level::TRACE) || level <= Level::WARN
            }
        }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(match self.detail {
            _ if self.records => tracing::level_filters::LevelFilter::TRACE,
            Detail::Events => tracing::level_filters::LevelFilter::OFF,
            Detail::Logs => tracing::level_filters::LevelFilter::DEBUG,
            Detail::Everything => tracing::level_filters::LevelFilter::TRACE,
        })
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let id = self.next_span.fetch_add(1, Ordering::Relaxed);
        if is_host_span(span.metadata()) {
            let mut name = HostName::default();
            span.record(&mut name);
            self.hosts().names.insert(id, name.0);
        }
        span::Id::from_u64(id)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields { text: String::new(), network: false };
        fields.network = event.metadata().target() == "turmoil";
        event.record(&mut fields);
        if self.records && fields.network {
            passes(&fields.text);
            if self.detail < Detail::Everything {
                return;
            }
        }
        // turmoil's counter of steps; and its line of a crash, whose time is real, as the host's own
        // clock is gone by then.
        if fields.text.starts_with("step ") || (fields.network && fields.text.starts_with("Crash"))
        {
            return;
        }
        let host = {
            let hosts = self.hosts();
            hosts.entered.last().and_then(|id| hosts.names.get(id)).cloned()
        };
        let host = host.unwrap_or_else(|| "-".to_owned());
        let target = event.metadata().target();
        let target = target.rsplit("::").next().unwrap_or(target);
        self::event(&host, format_args!("{target}: {}", fields.text));
    }

    fn enter(&self, span: &span::Id) {
        self.hosts().entered.push(span.into_u64());
    }

    fn exit(&self, _span: &span::Id) {
        self.hosts().entered.pop();
    }

    fn try_close(&self, id: span::Id) -> bool {
        self.hosts().names.remove(&id.into_u64());
        true
    }
}

#[derive(Default)]
struct HostName(String);

impl Visit for HostName {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "name" {
            self.0 = format!("{value:?}").trim_matches('"').to_owned();
        }
    }
}

struct Fields {
    text: String,
    network: bool,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let rest = std::mem::take(&mut self.text);
            let _ = write!(self.text, "{value:?}{rest}");
        } else if self.network && field.name() == "protocol" {
            // `TCP [0x..]`, `TCP FIN`, …: what it is, without the bytes.
            let text = format!("{value:?}");
            let kind = text.split('[').next().unwrap_or(&text).trim();
            let _ = write!(self.text, " {kind}");
        } else {
            let _ = write!(self.text, " {}={value:?}", field.name());
        }
    }
}

/// Adds a line to this thread's trace: who, then what as for `format!`.
#[macro_export]
macro_rules! trace_event {
    ($who:expr, $($what:tt)*) => { $crate::trace::event($who, format_args!($($what)*)) };
}
