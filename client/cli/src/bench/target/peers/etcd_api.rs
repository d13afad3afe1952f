//! The few messages of etcd's v3 API that a benchmark needs, with etcd's field numbers.
//!
//! They are written as structures and not as a `.proto` file, so that this crate needs no build
//! script. Fields that are left out here are skipped by both sides.

use prost::{Enumeration, Message, Oneof};

/// `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
}

/// `etcdserverpb.RangeRequest` for one key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bool, tag = "7")]
    pub(super) serializable: bool,
}

/// `etcdserverpb.RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

/// `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: bytes::Bytes,
}

/// `etcdserverpb.PutResponse`: that it came is enough.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PutResponse {}

/// `etcdserverpb.Compare.CompareTarget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum CompareTarget {
    Version = 0,
    Mod = 2,
}

/// `etcdserverpb.Compare`: the operator's default is EQUAL.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Compare {
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub(super) target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    #[prost(oneof = "Compared", tags = "6")]
    pub(super) compared: Option<Compared>,
}

/// What a key is compared with.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Compared {
    #[prost(int64, tag = "6")]
    ModRevision(i64),
}

/// `etcdserverpb.RequestOp`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Request", tags = "2")]
    pub(super) request: Option<Request>,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Request {
    #[prost(message, tag = "2")]
    Put(PutRequest),
}

/// `etcdserverpb.TxnRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
}

/// `etcdserverpb.TxnResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnResponse {
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as etcd's own definition has them, field by field.
    #[test]
    fn the_bytes_are_those_of_etcd() {
        let put = PutRequest { key: b"k".to_vec(), value: "v".into() };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x01v");
        let range = RangeRequest { key: b"k".to_vec(), serializable: true };
        assert_eq!(range.encode_to_vec(), b"\x0a\x01k\x38\x01");
        let compare = Compare {
            target: CompareTarget::Mod as i32,
            key: b"k".to_vec(),
            compared: Some(Compared::ModRevision(7)),
        };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp { request: Some(Request::Put(put)) }],
        };
        assert_eq!(
            txn.encode_to_vec(),
            b"\x0a\x07\x10\x02\x1a\x01k\x30\x07\x12\x08\x12\x06\x0a\x01k\x12\x01v"
        );
    }
}
