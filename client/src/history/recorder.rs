//! Recording a history while it happens.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Condition, Level, Part, Record, Status, Told, told::tell_error};
use crate::{ReadLevel, Result};

type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Writes down what clients ask and what they are told. It is cheap to clone, and all clones write
/// the same history.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> std::io::Result<()> {
/// use tally_client::history::{Part, Recorder};
/// use tokio::time::Instant;
///
/// let began = Instant::now();
/// let recorder = Recorder::in_memory(move || began.elapsed().as_nanos() as u64);
///
/// let pending = recorder.begin(1, Part::incr("hits", 1));
/// let answer = client.counter("hits").add(1).await;
/// pending.finish(&answer);
///
/// for record in recorder.records() {
///     println!("{}", serde_json::to_string(&record)?);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Recorder {
    clock: Clock,
    sink: Arc<Mutex<Sink>>,
}

enum Sink {
    Memory(Vec<Record>),
    /// A line for each record, and what went wrong first: nobody waits for each line's success.
    Lines(Box<dyn Write + Send>, Option<io::Error>),
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// Keeps the history in memory. The clock tells nanoseconds, the same for all clients: the
    /// order in time that a checker goes by is its.
    ///
    /// ```
    /// use tally_client::history::Recorder;
    ///
    /// let recorder = Recorder::in_memory(|| 0);
    /// assert!(recorder.records().is_empty());
    /// ```
    pub fn in_memory(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self::new(clock, Sink::Memory(Vec::new()))
    }

    /// Writes the history as JSON lines, best through a buffer. Each line is there once its
    /// operation has ended; [`close`](Self::close) says whether all could be written.
    ///
    /// ```
    /// use tally_client::history::{Part, Recorder};
    ///
    /// let recorder = Recorder::to_writer(|| 0, std::io::sink());
    /// drop(recorder.begin(1, Part::incr("hits", 1)));
    /// recorder.close()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn to_writer(
        clock: impl Fn() -> u64 + Send + Sync + 'static,
        writer: impl Write + Send + 'static,
    ) -> Self {
        Self::new(clock, Sink::Lines(Box::new(writer), None))
    }

    fn new(clock: impl Fn() -> u64 + Send + Sync + 'static, sink: Sink) -> Self {
        Self { clock: Arc::new(clock), sink: Arc::new(Mutex::new(sink)) }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a client asks for something now, just before it does.
    ///
    /// ```
    /// use tally_client::history::{Part, Recorder, Request};
    ///
    /// let recorder = Recorder::in_memory(|| 0);
    /// let pending = recorder.begin(1, Request::from(Part::incr("hits", 1)).idem("order-17"));
    /// ```
    pub fn begin(&self, client: u64, request: impl Into<Request>) -> Pending {
        let mut record = request.into().0;
        record.client = client;
        record.call = (self.clock)();
        Pending { recorder: self.clone(), record: Some(Box::new(record)) }
    }

    fn push(&self, record: Record) {
        match &mut *self.sink() {
            Sink::Memory(records) => records.push(record),
            Sink::Lines(writer, error) => {
                let mut line = serde_json::to_vec(&record).unwrap_or_default();
                line.push(b'\n');
                if let (None, Err(failed)) = (&error, writer.write_all(&line)) {
                    *error = Some(failed);
                }
            }
        }
    }

    /// The records of the operations that have ended, in the order of their ends. Empty if they are
    /// written to a writer.
    ///
    /// ```
    /// use tally_client::history::{Part, Recorder};
    ///
    /// let recorder = Recorder::in_memory(|| 0);
    /// drop(recorder.begin(1, Part::incr("hits", 1)));
    /// assert_eq!(recorder.records().len(), 1);
    /// ```
    pub fn records(&self) -> Vec<Record> {
        match &*self.sink() {
            Sink::Memory(records) => records.clone(),
            Sink::Lines(..) => Vec::new(),
        }
    }

    /// Flushes the writer, and says whether every line so far was written.
    ///
    /// # Errors
    ///
    /// The first that the writer had.
    ///
    /// ```
    /// tally_client::history::Recorder::in_memory(|| 0).close()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn close(&self) -> io::Result<()> {
        match &mut *self.sink() {
            Sink::Memory(_) => Ok(()),
            Sink::Lines(writer, error) => match error.take() {
                Some(error) => Err(error),
                None => writer.flush(),
            },
        }
    }
}

/// What a client is about to ask.
///
/// ```
/// use tally_client::{ReadLevel, history::{Part, Request}};
///
/// let read = Request::from(Part::get("hits")).level(&ReadLevel::Local);
/// let transfer = Request::apply([Part::incr("a", -5).floor(0), Part::incr("b", 5)]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Request(Record);

impl From<Part> for Request {
    fn from(part: Part) -> Self {
        Self(Record::new(0, part, 0))
    }
}

impl Request {
    /// An atomic step.
    ///
    /// ```
    /// # use tally_client::history::{Part, Request};
    /// let transfer = Request::apply([Part::incr("a", -5).floor(0), Part::incr("b", 5)]);
    /// ```
    pub fn apply(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut request = Self::from(Part::apply());
        request.0.ops = parts.into_iter().collect();
        request
    }

    /// A read of several counters.
    ///
    /// ```
    /// # use tally_client::history::Request;
    /// let read = Request::batch_get(["a", "b"]);
    /// ```
    pub fn batch_get<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut request = Self::from(Part::batch_get());
        request.0.ops = names.into_iter().map(Part::get).collect();
        request
    }

    /// A read of several keys.
    ///
    /// ```
    /// # use tally_client::history::Request;
    /// let read = Request::batch_read(["a", "b"]);
    /// ```
    pub fn batch_read<N: Into<String>>(keys: impl IntoIterator<Item = N>) -> Self {
        let mut request = Self::from(Part::batch_get());
        request.0.ops = keys.into_iter().map(Part::read).collect();
        request
    }

    /// A condition of an atomic step.
    ///
    /// ```
    /// # use tally_client::history::{Condition, Kind, Part, Request};
    /// let new = Condition::exists(Kind::Key, "order/17", false);
    /// let order = Request::apply([Part::put("order/17", "1 unit")]).when(new);
    /// ```
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.0.when.push(condition);
        self
    }

    /// What an atomic step does instead if a condition fails.
    ///
    /// ```
    /// # use tally_client::history::{Condition, Kind, Part, Request};
    /// let new = Condition::exists(Kind::Key, "order/17", false);
    /// let order = Request::apply([Part::put("order/17", "1 unit")]).when(new);
    /// let order = order.otherwise(Part::incr("turned-away", 1));
    /// ```
    #[must_use]
    pub fn otherwise(mut self, part: Part) -> Self {
        self.0.else_ops.push(part);
        self
    }

    /// The logical write: the same for each sending of it on purpose, and for nothing else. A write
    /// that is sent under one idempotency key is one, as long as the cluster remembers the key.
    ///
    /// ```
    /// # use tally_client::history::{Part, Request};
    /// let order = Request::from(Part::incr("stock", -1)).idem("order-17");
    /// ```
    #[must_use]
    pub fn idem(mut self, idem: impl Into<String>) -> Self {
        self.0.idem = Some(idem.into());
        self
    }

    /// The promise that a read asks for.
    ///
    /// ```
    /// # use tally_client::{ReadLevel, history::{Part, Request}};
    /// let read = Request::from(Part::get("hits")).level(&ReadLevel::session());
    /// ```
    #[must_use]
    pub fn level(mut self, level: &ReadLevel) -> Self {
        self.0.level = Some(Level::from(level));
        if let ReadLevel::Bounded { max_staleness, allow_fallback } = level {
            self.0.bound_ms = u64::try_from(max_staleness.as_millis()).ok();
            self.0.fallback = *allow_fallback;
        }
        if let ReadLevel::Session(Some(_)) = level {
            // A token of the caller's own demands that state, and not all that its client has seen.
            self.0.token.get_or_insert(0);
        }
        self
    }

    /// The applied index behind the token that the caller gives to a session read: of the answer
    /// which the token came with. Such a read is held to the token alone; one without is held to all
    /// that its client was told before.
    ///
    /// ```
    /// # use tally_client::{ReadLevel, history::{Part, Request}};
    /// let read = Request::from(Part::get("hits")).level(&ReadLevel::session()).token(17);
    /// ```
    #[must_use]
    pub fn token(mut self, applied_index: u64) -> Self {
        self.0.token = Some(applied_index);
        self
    }
}

/// An operation that has begun. If it is dropped (its task was cancelled, its client crashed), it is
/// recorded as one that nobody knows the outcome of.
///
/// ```
/// use tally_client::history::{Part, Recorder, Status};
///
/// let recorder = Recorder::in_memory(|| 0);
/// drop(recorder.begin(1, Part::incr("hits", 1)));
/// assert_eq!(recorder.records()[0].status, Status::Unknown);
/// ```
#[must_use = "it is recorded as unknown when it is dropped"]
#[derive(Debug)]
pub struct Pending {
    recorder: Recorder,
    record: Option<Box<Record>>,
}

impl Pending {
    /// Notes that this came back now.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client, recorder: tally_client::history::Recorder) {
    /// use tally_client::history::Part;
    ///
    /// let pending = recorder.begin(1, Part::get("hits"));
    /// pending.finish(&client.counter("hits").get().await);
    /// # }
    /// ```
    pub fn finish<T: Told>(mut self, result: &Result<T>) {
        let ret = (self.recorder.clock)();
        let Some(mut record) = self.record.take() else { return };
        match result {
            Ok(answer) => {
                record.status = Status::Ok;
                answer.tell(&mut record);
            }
            Err(error) => tell_error(error, &mut record),
        }
        record.ret = (record.status != Status::Unknown).then_some(ret);
        self.recorder.push(*record);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.status = if record.is_read() { Status::Fail } else { Status::Unknown };
            self.recorder.push(*record);
        }
    }
}
