//! The API's part of the door for the fuzz targets (`sim-tests/fuzz`).

use tally_proto::{
    codec,
    v1::{self, call::Request},
};

use super::{
    convert, reads,
    status::Invalid,
    token,
    writes::{Single, Split, split},
};
use crate::machine::command::Command;

/// What a request asks of the machine, if it is a write: the command, or which field is wrong.
pub fn command(request: Request) -> Option<Result<Command, Invalid>> {
    match split(Some(request)) {
        Split::Write(Single { action, options }, ..) => {
            Some(action.and_then(|action| convert::command(action, options, None)))
        }
        Split::Other(Some(Request::TransactionsApply(mut request))) => {
            let options = request.options.take();
            let action = convert::apply(request);
            Some(action.and_then(|action| convert::command(action, options, None)))
        }
        Split::Other(_) => None,
    }
}

/// The name after which a page begins, of a token of this query.
pub fn page(token: &str, query_hash: [u8; 8]) -> Result<Option<String>, Invalid> {
    reads::page(0, token, query_hash).map(|(_, last)| last)
}

/// The token of the page after this name.
pub fn page_token(query_hash: [u8; 8], last: &str) -> String {
    reads::page_token(query_hash, last)
}

/// The index that a session token asks for, if it is one of this cluster.
pub fn session_token(bytes: &[u8], cluster_id: u128) -> Option<u64> {
    token::decode(bytes)
        .filter(|token| token.is_of(cluster_id, 0, u64::MAX))
        .map(|token| token.index)
}

/// A pack of a stream, as the client port reads it; nothing if it is none.
pub fn pack(bytes: &[u8]) -> Option<v1::StreamExchangeRequest> {
    codec::pack_is_bounded(bytes).ok()?;
    prost::Message::decode(bytes).ok()
}

/// An atomic step, as the client port reads it; nothing if it is none.
pub fn apply(bytes: &[u8]) -> Option<v1::TransactionsApplyRequest> {
    codec::step_is_bounded(bytes).ok()?;
    prost::Message::decode(bytes).ok()
}
