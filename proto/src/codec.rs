//! How the stubs encode and decode messages: as prost does, but for a look at a request before there is memory
//! for it.
//!
//! An element of a list can be two bytes on the wire, and a hundred times that in memory: a pack of 8 MiB
//! could make a node take a GiB. The API's own limits on lists are looked at once a message is decoded, which
//! is too late. So lists of messages are counted first, where they are. Those of strings are not: a string is
//! twelve times its two bytes at most.

use std::{any::TypeId, marker::PhantomData};

use prost::{
    Message,
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{self, BufferSettings, DecodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::v1;

/// Calls that a pack may hold in memory: twice what the API lets through, so that who is a little above it is
/// told so by the API.
pub const CALLS_MAX: usize = 2048;

/// Conditions and operations of one call, all lists of an `Apply` together: a little above three times 128, the
/// same way.
pub const STEPS_MAX: usize = 1024;

/// Field numbers, which are frozen (the tests compare them with the messages).
const PACK_CALLS: u32 = 1;
const CALL_APPLY: u32 = 30;
const STEP_LISTS: [u32; 3] = [1, 2, 3];

/// The codec of the stubs.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        let inner = ProstCodec::<T, U>::raw_decoder(BufferSettings::default());
        Decoder { inner, look: look::<U>() }
    }
}

/// Decodes messages of one kind.
#[derive(Debug)]
pub struct Decoder<U> {
    inner: ProstDecoder<U>,
    look: Option<Look>,
}

impl<U: Message + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if let Some(look) = self.look {
            // A message lies in one piece.
            debug_assert_eq!(buffer.chunk().len(), buffer.remaining(), "a message is in pieces");
            look(buffer.chunk()).map_err(|many| Status::invalid_argument(many.to_string()))?;
        }
        self.inner.decode(buffer)
    }
}

type Look = fn(&[u8]) -> Result<(), TooMany>;

fn look<U: 'static>() -> Option<Look> {
    let is = |message: TypeId| TypeId::of::<U>() == message;
    if is(TypeId::of::<v1::StreamExchangeRequest>()) {
        Some(pack_is_bounded)
    } else if is(TypeId::of::<v1::TransactionsApplyRequest>()) {
        Some(step_is_bounded)
    } else {
        None
    }
}

/// A list that has too many elements, of messages that are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    list: &'static str,
    max: usize,
}

impl std::fmt::Display for TooMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TooMany { list, max } = self;
        write!(f, "decoding: more than {max} {list}, which the request would be made of in memory")
    }
}

impl std::error::Error for TooMany {}

/// Whether a pack is of no more than [`CALLS_MAX`] calls, each of no more than [`STEPS_MAX`] steps. What is no
/// message is for the decoder to refuse.
pub fn pack_is_bounded(pack: &[u8]) -> Result<(), TooMany> {
    let mut calls = 0;
    each(pack, |field, call| {
        if field != PACK_CALLS {
            return Ok(());
        }
        calls += 1;
        if calls > CALLS_MAX {
            return Err(TooMany { list: "calls", max: CALLS_MAX });
        }
        // One that is as short can't be of more.
        if call.len() <= 2 * STEPS_MAX {
            return Ok(());
        }
        let mut steps = 0;
        each(call, |field, step| match field {
            // The message of a field that comes twice is merged.
            CALL_APPLY => count_steps(step, &mut steps),
            _ => Ok(()),
        })
    })
}

/// Whether an `Apply` is of no more than [`STEPS_MAX`] conditions and operations.
pub fn step_is_bounded(step: &[u8]) -> Result<(), TooMany> {
    count_steps(step, &mut 0)
}

fn count_steps(step: &[u8], steps: &mut usize) -> Result<(), TooMany> {
    each(step, |field, _| {
        *steps += usize::from(STEP_LISTS.contains(&field));
        match *steps > STEPS_MAX {
            true => Err(TooMany { list: "conditions and operations", max: STEPS_MAX }),
            false => Ok(()),
        }
    })
}

/// Calls with each field that has a length, up to where it is no message any more.
fn each(
    mut message: &[u8],
    mut with: impl FnMut(u32, &[u8]) -> Result<(), TooMany>,
) -> Result<(), TooMany> {
    while !message.is_empty() {
        let Ok((field, wire_type)) = decode_key(&mut message) else { return Ok(()) };
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut message).ok().and_then(|it| usize::try_from(it).ok());
            let Some(length) = length.filter(|length| *length <= message.len()) else {
                return Ok(());
            };
            let (content, rest) = message.split_at(length);
            with(field, content)?;
            message = rest;
        } else if skip_field(wire_type, field, &mut message, DecodeContext::default()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(operations: usize) -> v1::TransactionsApplyRequest {
        let operations = vec![v1::Operation::default(); operations];
        v1::TransactionsApplyRequest { operations, ..Default::default() }
    }

    fn call(apply: v1::TransactionsApplyRequest) -> v1::Call {
        let request = Some(v1::call::Request::TransactionsApply(apply));
        v1::Call { id: 7, request_id: "r".repeat(10), request, ..Default::default() }
    }

    fn pack(calls: Vec<v1::Call>) -> Vec<u8> {
        v1::StreamExchangeRequest { calls }.encode_to_vec()
    }

    #[test]
    fn lists_are_counted_before_there_is_memory_for_them() {
        let many = TooMany { list: "calls", max: CALLS_MAX };
        assert_eq!(pack_is_bounded(&pack(vec![Default::default(); CALLS_MAX])), Ok(()));
        assert_eq!(pack_is_bounded(&pack(vec![Default::default(); CALLS_MAX + 1])), Err(many));

        let many = TooMany { list: "conditions and operations", max: STEPS_MAX };
        assert_eq!(step_is_bounded(&apply(STEPS_MAX).encode_to_vec()), Ok(()));
        assert_eq!(step_is_bounded(&apply(STEPS_MAX + 1).encode_to_vec()), Err(many));
        assert_eq!(pack_is_bounded(&pack(vec![call(apply(STEPS_MAX))])), Ok(()));
        let pair = vec![call(apply(1)), call(apply(STEPS_MAX + 1))];
        assert_eq!(pack_is_bounded(&pack(pair)), Err(many));

        // Each list counts, and a field that comes again is merged.
        let lists = v1::TransactionsApplyRequest {
            conditions: vec![Default::default(); STEPS_MAX / 2],
            operations: vec![Default::default(); STEPS_MAX / 2],
            else_operations: vec![Default::default()],
            ..Default::default()
        };
        assert_eq!(step_is_bounded(&lists.encode_to_vec()), Err(many));
        let half = call(apply(STEPS_MAX / 2 + 1)).encode_to_vec();
        let merged = v1::StreamExchangeRequest { calls: vec![v1::Call::default()] };
        let mut bytes = merged.encode_to_vec();
        let twice = [&half[..], &half].concat();
        bytes.extend([0x0a, 0x80 | (twice.len() % 128) as u8, (twice.len() / 128) as u8]);
        bytes.extend(twice);
        assert!(v1::StreamExchangeRequest::decode(&bytes[..]).is_ok());
        assert_eq!(pack_is_bounded(&bytes), Err(many));
    }

    #[test]
    fn what_is_no_message_is_left_to_the_decoder() {
        for bytes in [&[0xff; 30][..], &[0x0a, 9, 1], &[0x0b, 0x0b], &[0x0a, 0xff], &[]] {
            assert_eq!((pack_is_bounded(bytes), step_is_bounded(bytes)), (Ok(()), Ok(())));
        }
    }
}
