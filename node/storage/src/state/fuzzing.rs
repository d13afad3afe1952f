//! The state's part of the door for fuzz targets (`crate::fuzzing`).

use bytes::Bytes;

use super::{
    layout::{Pointer, format_pointer, parse_pointer},
    meta::{Meta, VERSION},
};
use crate::{log_id::LogId, snapshot::Membership};

pub(crate) fn meta(record: &Bytes) -> Option<Bytes> {
    match Meta::decode(record) {
        Ok(meta) => Some(meta.encode()),
        Err(super::meta::MetaError::NewerFormat(version)) => {
            assert!(version > VERSION, "what is known is not newer");
            None
        }
        Err(super::meta::MetaError::Damaged) => None,
    }
}

pub(crate) fn pointer(bytes: &[u8]) -> Option<(u64, String)> {
    match parse_pointer(bytes) {
        Pointer::Generation(generation) => Some((generation, format_pointer(generation))),
        _ => None,
    }
}

pub(crate) fn seeds() -> (Bytes, String) {
    let membership = Membership {
        log_id: Some(LogId::new(1, 1)),
        encoded: Bytes::from_static(b"\x01\x01\x03\x01\x02\x03"),
    };
    (Meta { applied: Some(LogId::new(3, 90)), membership }.encode(), format_pointer(42))
}
