//! Answers and errors of the wire as the library has them, so that a history can hold what a client
//! without the library was told.

use tally_client::{
    Consistency, CounterChange, CounterValue, Header,
    history::{Answer, Level, Record, RefusedPart, Status, Told},
    proto as v1,
};
use tally_proto::{reason, status::Details};

/// An error as a history has it.
pub(super) struct Failed<'a> {
    pub(super) details: &'a Details,
    pub(super) is_write: bool,
    pub(super) idem: Option<String>,
}

impl Told for Failed<'_> {
    fn tell(&self, record: &mut Record) {
        let Failed { details, is_write, idem } = self;
        record.idem.clone_from(idem);
        if let Some(header) = details.header.clone() {
            tell_header(&header.into(), record);
        }
        // Where in the history it was decided, which other writes of its log entry may have followed.
        let decided_at = details.outcome.and_then(|outcome| outcome.decided_at_revision);
        record.revision = decided_at.or(record.revision);
        if !is_write && details.reason == reason::COUNTER_NOT_FOUND {
            let absent = Answer { value: Some(None), version: Some(0), ..Answer::default() };
            record.part.result = Some(absent);
            return;
        }
        // A connection that broke has no reason of ours.
        let reason = Some(details.reason.as_str()).filter(|reason| !reason.is_empty());
        record.reason = Some(reason.unwrap_or(reason::NO_ANSWER).to_owned());
        let outcome = details.outcome.as_ref().map(v1::WriteOutcome::outcome);
        record.status = match outcome {
            Some(v1::Outcome::NotApplied) => Status::Fail,
            _ if *is_write => Status::Unknown,
            _ => Status::Fail,
        };
        let found = |bound: &v1::BoundFailure| Answer {
            value: Some(Some(bound.value.into())),
            ..Answer::default()
        };
        record.found = details.bound.as_ref().map(found);
        record.refused_part = details.step.as_ref().map(|_| RefusedPart::default());
    }
}

/// What an answer's header says of itself.
pub(in crate::workload) fn tell_header(header: &Header, record: &mut Record) {
    record.consistency = Level::of(header.consistency);
    // Without one nothing is claimed, and nothing judged.
    assert!(
        header.consistency == Consistency::Unspecified || record.consistency.is_some(),
        "the judge does not know the level {}",
        header.consistency
    );
    if header.cluster_id.is_empty() {
        return;
    }
    record.staleness_ms = header.staleness_max.map(|age| age.as_millis() as u64);
    record.node = Some(header.node_id);
    record.term = Some(header.term);
    record.applied = Some(header.applied_index);
    record.revision = Some(header.revision);
}

/// A change, and under which execution of a key it is recorded.
pub(super) struct Changed<'a> {
    pub(super) change: &'a CounterChange,
    pub(super) idem: Option<String>,
}

impl Told for Changed<'_> {
    fn tell(&self, record: &mut Record) {
        self.change.tell(record);
        record.idem.clone_from(&self.idem);
    }
}

pub(super) fn changed(answer: v1::CountersWriteResponse) -> CounterChange {
    let change = answer.change.unwrap_or_default();
    let bounds = change.bounds.unwrap_or_default();
    CounterChange {
        value_before: change.value_before,
        value: change.value,
        delta_requested: change.delta_requested,
        delta_applied: change.delta_applied,
        revision: change.revision,
        existed: change.existed,
        floor: bounds.floor,
        ceiling: bounds.ceiling,
        write: answer.write.map(Into::into).unwrap_or_default(),
        header: answer.header.map(Into::into).unwrap_or_default(),
    }
}

pub(super) fn read(answer: v1::CountersGetResponse) -> CounterValue {
    let counter = answer.counter.unwrap_or_default();
    let bounds = counter.bounds.unwrap_or_default();
    CounterValue {
        name: counter.name,
        value: counter.value,
        floor: bounds.floor,
        ceiling: bounds.ceiling,
        created_revision: counter.created_revision,
        modified_revision: counter.modified_revision,
        header: answer.header.map(Into::into).unwrap_or_default(),
        ..CounterValue::default()
    }
}
