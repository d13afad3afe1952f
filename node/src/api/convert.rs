//! Requests into commands, answers onto the wire. Everything that can be wrong with a request by
//! itself is found here, before anything is proposed; each error names the field and the limit.

use bytes::Bytes;
use tally_proto::v1;

use super::status::Invalid;
use crate::machine::{
    command::{
        Action, ApplyStep, Bounds, Caller, Command, Comparison, Condition, CounterAdd,
        CounterChange, CounterCompareAndSet, CounterConfigure, CounterDelete, CounterExpectation,
        CounterGet, CounterRecord, CounterSet, Fingerprint, IdempotencyKey, KeyChange, KeyDelete,
        KeyExpectation, KeyGet, KeyPut, KeyRecord, OnViolation, Operation, OperationAnswer,
        SessionStamp, Target, Test,
    },
    keys::USERS_KEY_MARK,
    limits,
    records::SessionRecord,
};

type Checked<T> = Result<T, Invalid>;

/// A name of a counter or a key.
pub(crate) fn name(field: &str, name: String) -> Checked<String> {
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX {
        let description =
            format!("must have 1 to {} bytes, has {}", limits::NAME_BYTES_MAX, name.len());
        return Err(Invalid::new(field, description));
    }
    Ok(name)
}

fn value(field: &str, value: Bytes) -> Checked<Bytes> {
    if value.len() > limits::VALUE_BYTES_MAX {
        let description =
            format!("must have at most {} bytes, has {}", limits::VALUE_BYTES_MAX, value.len());
        return Err(Invalid::new(field, description));
    }
    Ok(value)
}

fn required<T>(field: &str, given: Option<T>) -> Checked<T> {
    given.ok_or_else(|| Invalid::new(field, "is required"))
}

fn unknown_enum(field: &str, value: i32) -> Invalid {
    Invalid::new(field, format!("{value} is not a value of this version's enum"))
}

fn bounds(given: Option<v1::Bounds>) -> Checked<Bounds> {
    let given = given.unwrap_or_default();
    if let (Some(floor), Some(ceiling)) = (given.floor, given.ceiling)
        && floor > ceiling
    {
        let description = format!("floor {floor} is above ceiling {ceiling}");
        return Err(Invalid::new("bounds", description));
    }
    Ok(Bounds { floor: given.floor, ceiling: given.ceiling })
}

/// A request that is a call of its own and can also be a step of an `Apply`.
pub(crate) trait Step: Sized {
    /// What it says besides the operation, which only a call of its own may say.
    type Options: Default + PartialEq;

    /// The name of that field.
    const OPTIONS: &'static str;

    /// Takes those out.
    fn take_options(&mut self) -> Option<Self::Options>;

    /// The operation that is asked for.
    fn operation(self) -> Checked<Operation>;
}

/// Requests that write have `options`, those that read have `read`.
macro_rules! options {
    (write) => {
        type Options = v1::WriteOptions;
        const OPTIONS: &'static str = "options";

        fn take_options(&mut self) -> Option<v1::WriteOptions> {
            self.options.take()
        }
    };
    (read) => {
        type Options = v1::ReadOptions;
        const OPTIONS: &'static str = "read";

        fn take_options(&mut self) -> Option<v1::ReadOptions> {
            self.read.take()
        }
    };
}

impl Step for v1::CountersAddRequest {
    options!(write);

    fn operation(self) -> Checked<Operation> {
        let on_violation = match v1::OnViolation::try_from(self.on_violation) {
            Ok(v1::OnViolation::Unspecified | v1::OnViolation::Reject) => OnViolation::Reject,
            Ok(v1::OnViolation::Saturate) => OnViolation::Saturate,
            Err(_) => return Err(unknown_enum("on_violation", self.on_violation)),
        };
        let must_exist = match v1::IfMissing::try_from(self.if_missing) {
            Ok(v1::IfMissing::Unspecified | v1::IfMissing::Create) => false,
            Ok(v1::IfMissing::Fail) => true,
            Err(_) => return Err(unknown_enum("if_missing", self.if_missing)),
        };
        Ok(Operation::CounterAdd(CounterAdd {
            name: name("name", self.name)?,
            delta: self.delta,
            bounds: bounds(self.bounds)?,
            on_violation,
            must_exist,
        }))
    }
}

impl Step for v1::CountersGetRequest {
    options!(read);

    fn operation(self) -> Checked<Operation> {
        Ok(Operation::CounterGet(CounterGet { name: name("name", self.name)? }))
    }
}

impl Step for v1::CountersSetRequest {
    options!(write);

    fn operation(self) -> Checked<Operation> {
        let name = name("name", self.name)?;
        Ok(Operation::CounterSet(CounterSet { name, value: self.value }))
    }
}

impl Step for v1::CountersCompareAndSetRequest {
    options!(write);

    fn operation(self) -> Checked<Operation> {
        use v1::counters_compare_and_set_request::Expect;

        let expect = match required("expect", self.expect)? {
            Expect::ExpectValue(value) => CounterExpectation::Value(value),
            Expect::ExpectRevision(revision) => CounterExpectation::Revision(revision),
            Expect::ExpectAbsent(true) => CounterExpectation::Absent,
            Expect::ExpectAbsent(false) => {
                return Err(Invalid::new("expect_absent", "must be true when given"));
            }
        };
        let name = name("name", self.name)?;
        let value = self.value;
        Ok(Operation::CounterCompareAndSet(CounterCompareAndSet { name, expect, value }))
    }
}

impl Step for v1::CountersDeleteRequest {
    options!(write);

    fn operation(self) -> Checked<Operation> {
        Ok(Operation::CounterDelete(CounterDelete { name: name("name", self.name)? }))
    }
}

impl Step for v1::CountersConfigureRequest {
    options!(write);

    fn operation(self) -> Checked<Operation> {
        let (name, bounds) = (name("name", self.name)?, bounds(self.bounds)?);
        Ok(Operation::CounterConfigure(CounterConfigure { name, bounds }))
    }
}

impl Step for v1::KeysPutRequest {
    options!(write);

    fn operation(self) -> Checked<Operation> {
        Ok(Operation::KeyPut(KeyPut {
            key: name("key", self.key)?,
            value: value("value", self.value)?,
            expect: key_expectation(self.condition)?,
        }))
    }
}

impl Step for v1::KeysGetRequest {
    options!(read);

    fn operation(self) -> Checked<Operation> {
        Ok(Operation::KeyGet(KeyGet { key: name("key", self.key)? }))
    }
}

impl Step for v1::KeysDeleteRequest {
    options!(write);

    fn operation(self) -> Checked<Operation> {
        let (key, expect) = (name("key", self.key)?, key_expectation(self.condition)?);
        Ok(Operation::KeyDelete(KeyDelete { key, expect }))
    }
}

fn operation(given: v1::Operation) -> Checked<Operation> {
    use v1::operation::Kind;

    match required("kind", given.kind)? {
        Kind::CounterAdd(given) => step(given),
        Kind::CounterGet(given) => step(given),
        Kind::CounterSet(given) => step(given),
        Kind::CounterCompareAndSet(given) => step(given),
        Kind::CounterDelete(given) => step(given),
        Kind::CounterConfigure(given) => step(given),
        Kind::KeyPut(given) => step(given),
        Kind::KeyGet(given) => step(given),
        Kind::KeyDelete(given) => step(given),
    }
}

/// A request as a step of an `Apply`. What it says besides the operation would be ignored there, so it is
/// refused: a caller may have meant it.
fn step<S: Step>(mut given: S) -> Checked<Operation> {
    if given.take_options().is_some_and(|options| options != S::Options::default()) {
        return Err(Invalid::new(S::OPTIONS, "belongs to the whole step"));
    }
    given.operation()
}

fn key_expectation(condition: Option<v1::KeyCondition>) -> Checked<KeyExpectation> {
    use v1::key_condition::Expect;

    let Some(condition) = condition else { return Ok(KeyExpectation::Any) };
    match required("condition.expect", condition.expect)? {
        Expect::Absent(true) => Ok(KeyExpectation::Absent),
        Expect::Present(true) => Ok(KeyExpectation::Present),
        Expect::Revision(revision) => Ok(KeyExpectation::Revision(revision)),
        Expect::Value(bytes) => Ok(KeyExpectation::Value(value("condition.value", bytes)?)),
        Expect::Absent(false) => Err(Invalid::new("condition.absent", "must be true when given")),
        Expect::Present(false) => Err(Invalid::new("condition.present", "must be true when given")),
    }
}

fn condition(given: v1::Condition) -> Checked<Condition> {
    use v1::condition::{Target as WireTarget, Test as WireTest};

    let target = match required("target", given.target)? {
        WireTarget::Counter(counter) => Target::Counter(name("counter", counter)?),
        WireTarget::Key(key) => Target::Key(name("key", key)?),
    };
    let comparison = match v1::Comparison::try_from(given.comparison) {
        Ok(v1::Comparison::Unspecified | v1::Comparison::Equal) => Comparison::Equal,
        Ok(v1::Comparison::NotEqual) => Comparison::NotEqual,
        Ok(v1::Comparison::Less) => Comparison::Less,
        Ok(v1::Comparison::LessOrEqual) => Comparison::LessOrEqual,
        Ok(v1::Comparison::Greater) => Comparison::Greater,
        Ok(v1::Comparison::GreaterOrEqual) => Comparison::GreaterOrEqual,
        Err(_) => return Err(unknown_enum("comparison", given.comparison)),
    };
    let test = match (required("test", given.test)?, &target) {
        (WireTest::Exists(exists), _) => {
            if given.comparison != v1::Comparison::Unspecified as i32 {
                return Err(Invalid::new("comparison", "must be left out for `exists`"));
            }
            Test::Exists(exists)
        }
        (WireTest::Revision(revision), _) => Test::Revision(comparison, revision),
        (WireTest::CounterValue(value), Target::Counter(_)) => {
            Test::CounterValue(comparison, value)
        }
        (WireTest::KeyValue(bytes), Target::Key(_)) => {
            Test::KeyValue(comparison, value("key_value", bytes)?)
        }
        (WireTest::CounterValue(_), Target::Key(_)) => {
            return Err(Invalid::new("counter_value", "the target is a key"));
        }
        (WireTest::KeyValue(_), Target::Counter(_)) => {
            return Err(Invalid::new("key_value", "the target is a counter"));
        }
    };
    Ok(Condition { target, test })
}

/// Converts each element, naming the one that is wrong.
fn each<T, U>(field: &str, given: Vec<T>, convert: fn(T) -> Checked<U>) -> Checked<Vec<U>> {
    if given.len() > limits::APPLY_OPERATIONS_MAX {
        let description =
            format!("may hold at most {}, holds {}", limits::APPLY_OPERATIONS_MAX, given.len());
        return Err(Invalid::new(field, description));
    }
    let numbered = given.into_iter().enumerate();
    numbered
        .map(|(index, given)| {
            convert(given).map_err(|invalid| invalid.below(format_args!("{field}[{index}]")))
        })
        .collect()
}

pub(crate) fn apply(request: v1::TransactionsApplyRequest) -> Checked<Action> {
    let step = ApplyStep {
        conditions: each("conditions", request.conditions, condition)?,
        operations: each("operations", request.operations, operation)?,
        else_operations: each("else_operations", request.else_operations, operation)?,
    };
    if step.operations.is_empty() && step.else_operations.is_empty() {
        return Err(Invalid::new("operations", "must hold at least one"));
    }
    Ok(Action::Apply(step))
}

/// A command from an action and what makes it repeatable.
pub(crate) fn command(
    action: Action,
    options: Option<v1::WriteOptions>,
    caller: Option<Caller>,
) -> Checked<Command> {
    let options = options.unwrap_or_default();
    let session = options.session.map(session_stamp).transpose()?;
    let idempotency = idempotency(options.idempotency_key, options.idempotency_window_ms)?;
    let fingerprint = if session.is_some() || idempotency.is_some() {
        Fingerprint::of(&action)
    } else {
        Fingerprint::default()
    };
    Ok(Command { session, idempotency, fingerprint, action, caller })
}

fn session_stamp(given: v1::SessionStamp) -> Checked<SessionStamp> {
    if given.sequence == 0 {
        return Err(Invalid::new("options.session.sequence", "numbers begin at 1"));
    }
    Ok(SessionStamp {
        session_id: given.session_id,
        sequence: given.sequence,
        lowest_unanswered: given.lowest_unanswered,
    })
}

fn idempotency(key: Option<String>, window_ms: u64) -> Checked<Option<IdempotencyKey>> {
    let Some(key) = key else {
        if window_ms != 0 {
            let description = "is given without `options.idempotency_key`";
            return Err(Invalid::new("options.idempotency_window_ms", description));
        }
        return Ok(None);
    };
    if key.is_empty() {
        let description = "is empty, which would protect nothing: leave it out, or give it a name";
        return Err(Invalid::new("options.idempotency_key", description));
    }
    if key.starts_with(USERS_KEY_MARK) {
        let description = format!("must not begin with {USERS_KEY_MARK:?}");
        return Err(Invalid::new("options.idempotency_key", description));
    }
    if key.len() > limits::IDEMPOTENCY_KEY_BYTES_MAX {
        let description = format!(
            "must have at most {} bytes, has {}",
            limits::IDEMPOTENCY_KEY_BYTES_MAX,
            key.len()
        );
        return Err(Invalid::new("options.idempotency_key", description));
    }
    if window_ms != 0 && window_ms < limits::IDEMPOTENCY_WINDOW_MS_MIN {
        let description = format!("must be 0 or at least {}", limits::IDEMPOTENCY_WINDOW_MS_MIN);
        return Err(Invalid::new("options.idempotency_window_ms", description));
    }
    Ok(Some(IdempotencyKey { key, window_ms }))
}

/// Whether sending this again is safe.
pub(crate) fn can_repeat(command: &Command) -> bool {
    command.session.is_some()
        || command.idempotency.is_some()
        || !matches!(command.action, Action::Single(_) | Action::Apply(_))
}

pub(crate) fn bounds_to_wire(bounds: Bounds) -> Option<v1::Bounds> {
    (bounds != Bounds::default())
        .then_some(v1::Bounds { floor: bounds.floor, ceiling: bounds.ceiling })
}

pub(crate) fn counter_to_wire(name: String, record: &CounterRecord) -> v1::Counter {
    v1::Counter {
        name,
        value: record.value,
        bounds: bounds_to_wire(record.bounds),
        created_revision: record.created_revision,
        modified_revision: record.modified_revision,
        modified_wall_time_ms: record.modified_wall_time_ms,
    }
}

/// A session as it is shown, at this log time.
pub(crate) fn session_to_wire(
    session_id: u64,
    session: &SessionRecord,
    log_time_ms: u64,
) -> v1::SessionInfo {
    // Its end is written only now and then while it is used (`machine::session`), and is then up to a
    // 64th of the idle time late; so it was idle for this long at least.
    let used_at_ms = session.expires_at_ms.saturating_sub(session.idle_timeout_ms);
    v1::SessionInfo {
        session_id,
        owner: session.owner.map_or_else(String::new, |owner| owner.to_string()),
        idle_timeout_ms: session.idle_timeout_ms,
        idle_for_ms: log_time_ms.saturating_sub(used_at_ms),
        expires_in_ms: session.expires_at_ms.saturating_sub(log_time_ms),
        answers: session.answers,
        answer_bytes: session.answer_bytes,
        lowest_unanswered: session.watermark,
        opened_wall_time_ms: session.opened_wall_time_ms,
    }
}

pub(crate) fn key_to_wire(key: String, record: KeyRecord) -> v1::KeyValue {
    v1::KeyValue {
        key,
        value: record.value,
        created_revision: record.created_revision,
        modified_revision: record.modified_revision,
        modified_wall_time_ms: record.modified_wall_time_ms,
    }
}

pub(crate) fn counter_change_to_wire(change: &CounterChange) -> v1::CounterChange {
    v1::CounterChange {
        value_before: change.value_before,
        value: change.value,
        delta_requested: change.delta_requested,
        delta_applied: change.delta_applied,
        revision: change.revision,
        existed: change.existed,
        bounds: bounds_to_wire(change.bounds),
    }
}

pub(crate) fn key_change_to_wire(change: &KeyChange) -> v1::KeyChange {
    v1::KeyChange {
        revision: change.revision,
        existed: change.existed,
        previous_revision: change.previous_revision,
    }
}

/// The names that the operations of a branch read, so that its answers can be named.
pub(crate) fn read_names(operations: &[Operation]) -> Vec<Option<String>> {
    operations.iter().map(|operation| operation.reads().map(str::to_owned)).collect()
}

pub(crate) fn operation_answer_to_wire(
    answer: OperationAnswer,
    name: Option<String>,
) -> v1::OperationResult {
    use v1::operation_result::Kind;

    let name = name.unwrap_or_default();
    let kind = match answer {
        OperationAnswer::CounterChanged(change) => {
            Kind::CounterChange(counter_change_to_wire(&change))
        }
        OperationAnswer::CounterRead(Some(record)) => Kind::Counter(counter_to_wire(name, &record)),
        OperationAnswer::KeyChanged(change) => Kind::KeyChange(key_change_to_wire(&change)),
        OperationAnswer::KeyRead(Some(record)) => Kind::Item(key_to_wire(name, record)),
        OperationAnswer::CounterRead(None) | OperationAnswer::KeyRead(None) => {
            Kind::Missing(v1::Missing {})
        }
    };
    v1::OperationResult { kind: Some(kind) }
}
