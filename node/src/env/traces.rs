//! Traces: where the time of single requests went, across nodes. Few requests are sampled, by their callers or by
//! chance; of those each step is a span, told when it is over.
//!
//! # Cost when off
//! [`Tracer`] is nothing then: no clock is read, nothing is drawn, nothing is allocated. What travels with a request
//! is an empty pointer. So is it for a request that is not sampled, but for the one draw that decided it.
//!
//! # Not `tracing`
//! A write passes from its stream to the proposer, to openraft, to the log's thread and to other nodes, in entries
//! with thousands of others: there is no task whose current span it could be. So contexts are values, and spans are
//! told whole. What logs say stays as it is.
//!
//! Leaves out: how spans leave the process; that is `process::traces`.

use std::{fmt, sync::Arc};

/// Which request, of which trace: the ids of W3C's trace context, of a request that is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace. Never 0.
    pub trace_id: u128,
    /// The span that others are below. Never 0.
    pub span_id: u64,
}

/// Length of a context between nodes.
pub const CONTEXT_BYTES: usize = 24;

/// What a caller's `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing, or what is no trace context: it is this node's to decide.
    Nothing,
    /// Not to sample.
    No,
    /// To go on with this.
    Yes(TraceContext),
}

impl Asked {
    /// Reads `00-TRACE-SPAN-FLAGS`; of a later version as much as is known of it.
    pub fn of(traceparent: &str) -> Asked {
        let mut parts = traceparent.trim().split('-');
        let part = |parts: &mut std::str::Split<'_, char>, digits: usize| {
            let part = parts.next()?.to_owned();
            let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
            (part.len() == digits && part.bytes().all(is_hex)).then_some(part)
        };
        let mut found = || {
            let version = part(&mut parts, 2)?;
            let trace_id = u128::from_str_radix(&part(&mut parts, 32)?, 16).ok()?;
            let span_id = u64::from_str_radix(&part(&mut parts, 16)?, 16).ok()?;
            let flags = u8::from_str_radix(&part(&mut parts, 2)?, 16).ok()?;
            let more = parts.next().is_some();
            let is_known = version != "ff" && !(version == "00" && more);
            (is_known && trace_id != 0 && span_id != 0)
                .then_some((TraceContext { trace_id, span_id }, flags))
        };
        match found() {
            None => Asked::Nothing,
            Some((context, flags)) if flags & 1 == 1 => Asked::Yes(context),
            Some(_) => Asked::No,
        }
    }
}

impl TraceContext {
    /// As it goes between nodes.
    pub fn to_bytes(self) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0; CONTEXT_BYTES];
        bytes[..16].copy_from_slice(&self.trace_id.to_be_bytes());
        bytes[16..].copy_from_slice(&self.span_id.to_be_bytes());
        bytes
    }

    /// What came from a node; nothing if it is no context.
    pub fn from_bytes(bytes: &[u8]) -> Option<TraceContext> {
        let (trace, span) = bytes.split_at_checked(16)?;
        let trace_id = u128::from_be_bytes(trace.try_into().ok()?);
        let span_id = u64::from_be_bytes(span.try_into().ok()?);
        (trace_id != 0 && span_id != 0).then_some(TraceContext { trace_id, span_id })
    }

    /// Several, one behind the other.
    pub fn all_from_bytes(bytes: &[u8]) -> Vec<TraceContext> {
        bytes.chunks_exact(CONTEXT_BYTES).filter_map(TraceContext::from_bytes).collect()
    }
}

/// On which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It is within a node.
    Internal,
    /// It answers a call.
    Server,
    /// It makes one.
    Client,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
    /// A name of ours.
    Name(&'static str),
}

/// A step that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What it is called.
    pub name: &'static str,
    /// On which side of a call.
    pub side: Side,
    /// Its own ids.
    pub context: TraceContext,
    /// The span that it is below; 0 for the first of a trace.
    pub parent_id: u64,
    /// When it began, in ns since 1970.
    pub began_ns: u64,
    /// When it was over.
    pub ended_ns: u64,
    /// What is said of it. Never a value that is stored, nor a name of an item.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Takes spans, and decides which requests have any.
pub trait Traces: Send + Sync + 'static {
    /// Whether a request is sampled whose caller did not decide.
    fn samples(&self) -> bool;

    /// Random bits for ids; never 0.
    fn new_id(&self) -> u64;

    /// Wall clock in ns since 1970.
    fn now_ns(&self) -> u64;

    /// Takes a span. Must not block.
    fn take(&self, span: Span);
}

/// What spans are told to, if they are.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<dyn Traces>>);

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.is_on()).finish()
    }
}

impl Tracer {
    /// Tells spans there.
    pub fn new(traces: Option<Arc<dyn Traces>>) -> Tracer {
        Tracer(traces)
    }

    /// Whether anything is traced.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins the span of a request: below its caller's, if that wants it; or the first of a trace.
    pub fn request(&self, traceparent: impl FnOnce() -> Asked) -> Option<Box<Open>> {
        let traces = self.0.as_ref()?;
        let parent = match traceparent() {
            Asked::No => return None,
            Asked::Yes(parent) => Some(parent),
            Asked::Nothing if traces.samples() => None,
            Asked::Nothing => return None,
        };
        let trace_id = parent.map_or_else(
            || u128::from(traces.new_id()) << 64 | u128::from(traces.new_id()),
            |parent| parent.trace_id,
        );
        Some(Box::new(Open {
            context: TraceContext { trace_id, span_id: traces.new_id() },
            parent_id: parent.map_or(0, |parent| parent.span_id),
            began_ns: traces.now_ns(),
        }))
    }

    /// Begins a step below another span.
    pub fn below(&self, parent: TraceContext) -> Option<Box<Open>> {
        self.request(|| Asked::Yes(parent))
    }

    /// The time, for those who have something to tell.
    pub fn now_ns(&self) -> u64 {
        self.0.as_ref().map_or(0, |traces| traces.now_ns())
    }

    /// A step is over.
    pub fn end(&self, open: &Open, name: &'static str, side: Side, ended: Ended) {
        let Some(traces) = &self.0 else { return };
        let Ended { attributes, error } = ended;
        let Open { context, parent_id, began_ns } = *open;
        let ended_ns = traces.now_ns().max(began_ns);
        traces.take(Span { name, side, context, parent_id, began_ns, ended_ns, attributes, error });
    }

    /// Steps that several requests share, as many spans.
    pub fn end_all(
        &self,
        parents: &[TraceContext],
        name: &'static str,
        began_ns: u64,
        attributes: &[(&'static str, Value)],
        error: Option<&str>,
    ) {
        let Some(traces) = &self.0 else { return };
        for parent in parents {
            let context = TraceContext { span_id: traces.new_id(), ..*parent };
            let open = Open { context, parent_id: parent.span_id, began_ns };
            let ended = Ended { attributes: attributes.to_vec(), error: error.map(str::to_owned) };
            self.end(&open, name, Side::Internal, ended);
        }
    }
}

/// What is said of a step when it is over.
#[derive(Debug, Default)]
pub struct Ended {
    /// Whatever is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// A span that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Its own ids: what is below it.
    pub context: TraceContext,
    parent_id: u64,
    began_ns: u64,
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let context = TraceContext {
            trace_id: 0x0af7651916cd43dd8448eb211c80319c,
            span_id: 0xb7ad6b7169203331,
        };
        assert_eq!(Asked::of(GIVEN), Asked::Yes(context));
        assert_eq!(Asked::of(&GIVEN.replace("-01", "-03")), Asked::Yes(context));
        assert_eq!(Asked::of(&GIVEN.replace("-01", "-00")), Asked::No);
        let later = GIVEN.replacen("00-", "cc-", 1) + "-what-is-new";
        assert_eq!(Asked::of(&later), Asked::Yes(context));
        for wrong in [
            "",
            "00",
            &GIVEN.to_uppercase(),
            &GIVEN.replacen("00-", "ff-", 1),
            &format!("{GIVEN}-more"),
            &GIVEN.replace("b7ad6b7169203331", "0000000000000000"),
            &GIVEN.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GIVEN.replace("b7ad", "b7a"),
        ] {
            assert_eq!(Asked::of(wrong), Asked::Nothing, "{wrong}");
        }
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
        let mut two = context.to_bytes().repeat(2);
        assert_eq!(TraceContext::all_from_bytes(&two), [context, context]);
        two.pop();
        assert_eq!(TraceContext::all_from_bytes(&two), [context]);
        assert_eq!(TraceContext::all_from_bytes(&[0; CONTEXT_BYTES]), []);
    }

    #[derive(Default)]
    struct Kept {
        spans: Mutex<Vec<Span>>,
        ids: AtomicU64,
        samples: bool,
    }

    impl Traces for Kept {
        fn samples(&self) -> bool {
            self.samples
        }

        fn new_id(&self) -> u64 {
            self.ids.fetch_add(1, Ordering::Relaxed) + 1
        }

        fn now_ns(&self) -> u64 {
            self.ids.load(Ordering::Relaxed)
        }

        fn take(&self, span: Span) {
            self.spans.lock().unwrap().push(span);
        }
    }

    #[test]
    fn callers_decide_and_where_they_do_not_chance_does() {
        let off = Tracer::default();
        assert!(off.request(|| unreachable!("nobody looks")).is_none());
        for samples in [false, true] {
            let tracer = Tracer::new(Some(Arc::new(Kept { samples, ..Kept::default() })));
            assert_eq!(tracer.request(|| Asked::Nothing).is_some(), samples);
            assert!(tracer.request(|| Asked::No).is_none());
            let open = tracer.request(|| Asked::of(GIVEN)).unwrap();
            assert_eq!(open.context.trace_id, 0x0af7651916cd43dd8448eb211c80319c);
            assert_eq!(open.parent_id, 0xb7ad6b7169203331);
        }
    }

    #[test]
    fn steps_are_below_what_they_are_part_of() {
        let kept = Arc::new(Kept { samples: true, ..Kept::default() });
        let tracer = Tracer::new(Some(Arc::clone(&kept) as Arc<dyn Traces>));
        let open = tracer.request(|| Asked::Nothing).unwrap();
        tracer.end_all(&[open.context; 2], "append", 1, &[("index", Value::Number(7))], Some("no"));
        tracer.end(&open, "request", Side::Server, Ended::default());
        let spans = kept.spans.lock().unwrap();
        let [one, two, last] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((one.parent_id, two.parent_id), (open.context.span_id, open.context.span_id));
        assert!(one.context.span_id != two.context.span_id && one.error.as_deref() == Some("no"));
        assert_eq!((last.parent_id, last.context), (0, open.context));
        assert!(last.ended_ns >= last.began_ns);
    }
}
