//! How large an answer may be, before the call runs.

use tally_proto::v1::{self, call::Request};

use crate::{
    machine::{
        auth::{AUTH_NAME_BYTES_MAX, ROLES_PER_USER_MAX},
        limits,
    },
    status::REPORT_BYTES_MAX,
};

/// What the answer of a plain write or of one counter is taken for.
pub(super) const SMALL_ANSWER_BYTES: usize = 1024;

/// Bytes around the name, or the value, of one item in an answer.
pub(super) const ITEM_BYTES: usize = limits::NAME_BYTES_MAX + 128;

/// A request that knows.
pub(super) trait AnswerBytes: Clone {
    /// The answer may be larger than is said: a value decides, which nobody knows before it is read.
    const MAY_BE_LARGER: bool = false;

    /// The most that its answer has.
    fn answer_bytes(&self) -> usize {
        SMALL_ANSWER_BYTES
    }
}

/// What only says what was done has a small answer. How large that of a read, an atomic step or a report may be
/// is said below.
macro_rules! small {
    (read $request:ident) => {};
    (apply $request:ident) => {};
    (report $request:ident) => {};
    ($other:ident $request:ident) => {
        impl AnswerBytes for v1::$request {}
    };
}

macro_rules! of_each {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        $($(small!($kind $request);)*)*

        /// The most that the answer of a call of a stream has.
        pub(super) fn answer_bytes_of(call: &v1::Call) -> usize {
            match &call.request {
                None => SMALL_ANSWER_BYTES,
                $($(Some(Request::$variant(request)) => request.answer_bytes(),)*)*
            }
        }
    };
}
tally_proto::requests!(of_each);

impl AnswerBytes for v1::CountersGetRequest {}

impl AnswerBytes for v1::KeysGetRequest {
    const MAY_BE_LARGER: bool = true;
}

impl AnswerBytes for v1::KeysScanRequest {
    fn answer_bytes(&self) -> usize {
        limits::ANSWER_BYTES_MAX
    }
}

impl AnswerBytes for v1::KeysBatchGetRequest {
    fn answer_bytes(&self) -> usize {
        limits::ANSWER_BYTES_MAX
    }
}

impl AnswerBytes for v1::CountersListRequest {
    fn answer_bytes(&self) -> usize {
        let items = match self.page_size as usize {
            0 => limits::PAGE_SIZE_DEFAULT,
            asked => asked.min(limits::PAGE_SIZE_MAX),
        };
        (SMALL_ANSWER_BYTES + items * ITEM_BYTES).min(limits::ANSWER_BYTES_MAX)
    }
}

impl AnswerBytes for v1::SessionsListRequest {
    fn answer_bytes(&self) -> usize {
        /// Nine numbers or an address each, with their tags.
        const SESSION_BYTES: usize = 160;
        let items = match self.page_size as usize {
            0 => limits::PAGE_SIZE_DEFAULT,
            asked => asked.min(limits::PAGE_SIZE_MAX),
        };
        let owners = (self.owners_max as usize).min(limits::SESSION_OWNERS_SHOWN_MAX);
        SMALL_ANSWER_BYTES + (items + owners) * SESSION_BYTES
    }
}

impl AnswerBytes for v1::CountersBatchGetRequest {
    fn answer_bytes(&self) -> usize {
        SMALL_ANSWER_BYTES + self.names.len().min(limits::BATCH_GET_NAMES_MAX) * ITEM_BYTES
    }
}

impl AnswerBytes for v1::TransactionsApplyRequest {
    fn answer_bytes(&self) -> usize {
        let results = self.operations.len().max(self.else_operations.len());
        let results = results.min(limits::APPLY_OPERATIONS_MAX);
        SMALL_ANSWER_BYTES + limits::APPLY_READ_BYTES_MAX + results * ITEM_BYTES
    }
}

/// All users, roles and tokens: what they have in the state, which is bounded, with what the wire adds to it.
impl AnswerBytes for v1::AuthListRequest {
    fn answer_bytes(&self) -> usize {
        limits::ANSWER_BYTES_MAX
    }
}

impl AnswerBytes for v1::QuotasListRequest {
    fn answer_bytes(&self) -> usize {
        SMALL_ANSWER_BYTES + limits::QUOTAS_MAX * ITEM_BYTES
    }
}

impl AnswerBytes for v1::AuthCanRequest {
    fn answer_bytes(&self) -> usize {
        // A rule for each permission, with its role, and the roles.
        SMALL_ANSWER_BYTES + 8 * 2 * ITEM_BYTES + ROLES_PER_USER_MAX * AUTH_NAME_BYTES_MAX
    }
}

impl AnswerBytes for v1::ClusterMetricsRequest {
    fn answer_bytes(&self) -> usize {
        SMALL_ANSWER_BYTES + REPORT_BYTES_MAX
    }
}

impl AnswerBytes for v1::BackupReadRequest {
    fn answer_bytes(&self) -> usize {
        limits::ANSWER_BYTES_MAX
    }
}

impl AnswerBytes for v1::ClusterDiagnoseRequest {
    fn answer_bytes(&self) -> usize {
        SMALL_ANSWER_BYTES + REPORT_BYTES_MAX
    }
}
