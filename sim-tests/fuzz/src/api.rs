//! What clients send: requests, packs of them, tokens; and what they are sent back as an error.

use prost::Message;
use tally_machine::{codec, limits};
use tally_node::api::fuzzing as door;
use tally_proto::{
    codec::CALLS_MAX,
    status::{Details, from_tonic, to_tonic},
    v1::{self, call::Request},
};

use crate::{allocation::bounded, choose};

/// How many times its bytes a request may take in memory: the smallest field is two bytes, and the largest
/// thing that it can stand for, of which there are many, is a name (24 bytes, in a vector that doubles).
pub(crate) const TIMES: usize = 64;
/// What a request may take besides: the operations of a step, and conversions to and fro.
pub(crate) const BESIDES: usize = 512 * 1024;

/// … and besides, until it is found to be of too many: a list of as many calls as a pack may have, twice while
/// it grows.
const READ_BESIDES: usize = 3 * CALLS_MAX * size_of::<v1::Call>() / 2;

/// The place of `Apply` in the table.
const APPLY: usize = 13;

type Decode = fn(&[u8]) -> Result<Request, prost::DecodeError>;

macro_rules! decoders {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        /// Of each request, as a call of its own.
        pub(crate) const DECODERS: &[Decode] = &[
            $($(|bytes| v1::$request::decode(bytes).map(Request::$variant),)*)*
        ];
    };
}
tally_proto::requests!(decoders);

/// A unary request: which one, then its message.
pub(crate) fn request(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, DECODERS.len()) else { return };
    let read = || match which {
        APPLY => door::apply(bytes).map(Request::TransactionsApply),
        which => DECODERS[which](bytes).ok(),
    };
    let Some(read) = bounded(bytes.len(), TIMES, READ_BESIDES, read) else { return };
    check(read);
}

fn check(request: Request) {
    let call = v1::Call { request: Some(request), ..v1::Call::default() };
    let again = v1::Call::decode(&call.encode_to_vec()[..]).expect("what was written is read");
    assert_eq!(again, call, "a request changes when it is written and read");
    let Some(request) = call.request else { return };
    let size = request_bytes(&request);
    match bounded(size, TIMES, BESIDES, || door::command(request)) {
        Some(Ok(command)) => {
            let bytes = codec::encode_command(&command);
            assert_eq!(codec::decode_command(&bytes).as_ref(), Ok(&command));
            // What is counted for a write must not be far below what it takes.
            let counted = codec::size_hint(&command);
            assert!(bytes.len() <= 2 * counted + 64, "{} bytes counted as {counted}", bytes.len());
        }
        Some(Err(invalid)) => {
            assert!(!invalid.field.is_empty() && !invalid.description.is_empty(), "{invalid:?}");
        }
        None => {}
    }
}

fn request_bytes(request: &Request) -> usize {
    v1::Call { request: Some(request.clone()), ..v1::Call::default() }.encoded_len()
}

/// A pack of a stream.
pub(crate) fn pack(bytes: &[u8]) {
    let Some(pack) = bounded(bytes.len(), TIMES, READ_BESIDES, || door::pack(bytes)) else {
        return;
    };
    let again = v1::StreamExchangeRequest::decode(&pack.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&pack), "a pack changes when it is written and read");
    for request in pack.calls.into_iter().filter_map(|call| call.request) {
        check(request);
    }
}

/// A page token as text, or a session token.
pub(crate) fn token(bytes: &[u8]) {
    let Some((which, bytes)) = choose(bytes, 3) else { return };
    match which {
        0 => {
            let Ok(token) = std::str::from_utf8(bytes) else { return };
            // Of the query that the token itself names, so that what lies behind that is looked at too.
            let mut hash = [0; 8];
            for (byte, at) in hash.iter_mut().zip((2..).step_by(2)) {
                let digits = token.get(at..at + 2).unwrap_or_default();
                *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
            }
            let Ok(last) = bounded(token.len(), 8, 1024, || door::page(token, hash)) else {
                return;
            };
            let other = hash.map(|byte| !byte);
            let Some(last) = last else { return assert!(token.is_empty()) };
            assert_eq!(door::page_token(hash, &last), token.to_ascii_lowercase());
            assert!(door::page(token, other).is_err(), "a token of another query is taken");
        }
        1 => {
            let Some(id) = bytes.get(1..17) else { return };
            let cluster_id = u128::from_be_bytes(id.try_into().expect("sixteen bytes"));
            let Some(index) = door::session_token(bytes, cluster_id) else { return };
            assert_eq!(tally_node::api::token::encode(cluster_id, 0, index), bytes);
            assert_eq!(door::session_token(bytes, !cluster_id), None);
        }
        _ => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let read = bounded(text.len(), 64, 1024, || text.parse::<tally_client::SessionToken>());
            let Ok(token) = read else { return };
            assert_eq!(token.to_string(), text.to_ascii_lowercase());
        }
    }
}

/// An error as a client reads it: in the stream, and with a call of its own.
pub(crate) fn error(bytes: &[u8]) {
    let Ok(status) = bounded(bytes.len(), TIMES, BESIDES, || v1::CallStatus::decode(bytes)) else {
        return;
    };
    let details = bounded(bytes.len(), TIMES, BESIDES, || Details::parse_call(&status));
    let unary = to_tonic(&status);
    let (again, parsed) = (from_tonic(&unary), Details::parse(&unary));
    assert_eq!((&again.message, &again.details), (&status.message, &status.details));
    assert_eq!(parsed, details, "an error tells more in one way than in the other");
}

const _: () = assert!(limits::APPLY_OPERATIONS_MAX * 3 * 1024 <= BESIDES);
