//! The reads: a permit first, then one look at the frozen state.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tally_proto::{reason, seeded_bugs, v1};
use tokio::time::Instant;

use super::{
    Answered, Api, Call, TOKEN_WAIT_DEFAULT, convert,
    status::{Invalid, Kind},
    token::{self, Token},
    who::Reads,
};
use crate::{
    consensus::{
        error::ReadError,
        read::{Level, ReadPermit},
    },
    machine::{auth::Scope, command::Owner, limits, query},
    metrics::hot::ItemKind,
};

impl Api {
    /// A permit for what the request asks, if its caller may read that.
    pub(super) async fn permit(
        &self,
        call: &Call,
        options: Option<v1::ReadOptions>,
        reads: Reads<'_>,
    ) -> Answered<ReadPermit<'_>> {
        let level = self
            .level(call, options.unwrap_or_default())
            .await
            .map_err(|invalid| self.invalid(call, Kind::Read, &invalid))?
            .map_err(|error| self.read_error(call, &error))?;
        tracing::debug!(request = %call.request_id, ?level, "a read");
        let permit = self
            .consensus
            .reads()
            .permit(&level, call.deadline)
            .await
            .map_err(|error| self.read_error(call, &error))?;
        // By the state that is read, before anything of it is looked at.
        self.may_read(call, &permit.view, reads)?;
        Ok(permit)
    }

    /// The level that the request names.
    async fn level(
        &self,
        call: &Call,
        options: v1::ReadOptions,
    ) -> Result<Result<Level, ReadError>, Invalid> {
        let level = v1::ReadLevel::try_from(options.level).map_err(|_| {
            let description = format!("{} is not a value of this version's enum", options.level);
            Invalid::new("read.level", description)
        })?;
        let needs = |field: &str, name: &str| {
            Invalid::new(format!("read.{field}"), format!("needs level {name}"))
        };
        if options.max_staleness_ms != 0 && level != v1::ReadLevel::Bounded {
            return Err(needs("max_staleness_ms", "BOUNDED"));
        }
        if options.allow_fallback && level != v1::ReadLevel::Bounded {
            return Err(needs("allow_fallback", "BOUNDED"));
        }
        if !options.session_token.is_empty() && level != v1::ReadLevel::Session {
            return Err(needs("session_token", "SESSION"));
        }
        if options.wait_ms != 0 && level != v1::ReadLevel::Session {
            return Err(needs("wait_ms", "SESSION"));
        }
        Ok(Ok(match level {
            v1::ReadLevel::Unspecified | v1::ReadLevel::Linearizable => Level::Linearizable,
            v1::ReadLevel::Local => Level::Local,
            v1::ReadLevel::Bounded => {
                if options.max_staleness_ms == 0 {
                    return Err(Invalid::new("read.max_staleness_ms", "must be above 0"));
                }
                Level::Bounded {
                    staleness_ms_max: options.max_staleness_ms,
                    fallback: options.allow_fallback,
                }
            }
            v1::ReadLevel::Session => {
                let Some(token) = token::decode(&options.session_token) else {
                    return Err(Invalid::new("read.session_token", "is not a session token"));
                };
                let wait = match options.wait_ms {
                    0 => TOKEN_WAIT_DEFAULT,
                    ms => Duration::from_millis(ms),
                };
                let left = match self.judge(&token, call.deadline.min(Instant::now() + wait)).await
                {
                    Ok(left) => left,
                    Err(error) => return Ok(Err(error)),
                };
                Level::Session { index: token.index, wait: left }
            }
        }))
    }

    /// Whether a token is of this cluster, as soon as this node knows which that is: before, it can't
    /// tell, and has applied nothing that the token could ask for. What is left of the wait.
    async fn judge(&self, token: &Token, until: Instant) -> Result<Duration, ReadError> {
        let started = Instant::now();
        let cluster_id = self.consensus.cluster_id();
        if !cluster_id.wait(until).await {
            return Err(ReadError::TokenNotReached {
                token_index: token.index,
                applied_index: self.consensus.state().applied().map_or(0, |applied| applied.index),
                waited_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        let mut epoch = cluster_id.restore_epoch();
        let mut applied_index = 0;
        if token.is_later_than(epoch) {
            // Of one state: a restore may be applied just now.
            let view = self.consensus.state().view();
            epoch = query::meta(&view).restore_epoch;
            applied_index = view.applied().map_or(0, |applied| applied.index);
        }
        match cluster_id.get() {
            Some(id) if token.is_of(id, epoch, applied_index) => {
                Ok(until.saturating_duration_since(Instant::now()))
            }
            _ => Err(ReadError::TokenOfAnotherCluster),
        }
    }

    /// Counts a read of one item for the hot ones.
    fn count_hot(&self, kind: ItemKind, name: &str) {
        let hot = &self.node.metrics.hot;
        if hot.wants_next() {
            hot.count(kind, name);
        }
    }

    /// The header of an answer read under a permit.
    pub(super) fn read_header(&self, permit: &ReadPermit<'_>) -> v1::ResponseHeader {
        let applied = permit.view.applied().map_or(0, |applied| applied.index);
        let revision = query::meta(&permit.view).revision;
        self.header(permit.provided, permit.staleness, applied, revision)
    }

    pub(crate) async fn counters_get(
        &self,
        call: &Call,
        request: v1::CountersGetRequest,
    ) -> Answered<v1::CountersGetResponse> {
        let name = convert::name("name", request.name)
            .map_err(|invalid| self.invalid(call, Kind::Read, &invalid))?;
        let permit = self
            .permit(call, request.read, Reads::Items(Scope::Counters, std::slice::from_ref(&name)))
            .await?;
        self.count_hot(ItemKind::Counter, &name);
        let record = query::counter(&permit.view, &name);
        let header = self.read_header(&permit);
        drop(permit);
        match record {
            Some(record) => Ok(v1::CountersGetResponse {
                header: Some(header),
                counter: Some(convert::counter_to_wire(name, &record)),
            }),
            None => {
                let message = format!("counter {name:?} does not exist");
                Err(self.not_found(call, reason::COUNTER_NOT_FOUND, message, header))
            }
        }
    }

    /// Names of a batch, checked.
    fn batch_names(&self, call: &Call, field: &str, names: Vec<String>) -> Answered<Vec<String>> {
        let checked = if names.is_empty() || names.len() > limits::BATCH_GET_NAMES_MAX {
            let description = format!(
                "must hold 1 to {} names, holds {}",
                limits::BATCH_GET_NAMES_MAX,
                names.len()
            );
            Err(Invalid::new(field, description))
        } else {
            let numbered = names.into_iter().enumerate();
            numbered
                .map(|(index, name)| convert::name(&format!("{field}[{index}]"), name))
                .collect()
        };
        checked.map_err(|invalid| self.invalid(call, Kind::Read, &invalid))
    }

    pub(crate) async fn counters_batch_get(
        &self,
        call: &Call,
        request: v1::CountersBatchGetRequest,
    ) -> Answered<v1::CountersBatchGetResponse> {
        let names = self.batch_names(call, "names", request.names)?;
        let permit = self.permit(call, request.read, Reads::Items(Scope::Counters, &names)).await?;
        let mut response = v1::CountersBatchGetResponse {
            header: Some(self.read_header(&permit)),
            ..v1::CountersBatchGetResponse::default()
        };
        for name in names {
            match query::counter(&permit.view, &name) {
                Some(record) => response.counters.push(convert::counter_to_wire(name, &record)),
                None => response.missing.push(name),
            }
        }
        Ok(response)
    }

    pub(crate) async fn counters_list(
        &self,
        call: &Call,
        request: v1::CountersListRequest,
    ) -> Answered<v1::CountersListResponse> {
        let query_hash = query_hash(&[b"counters", request.prefix.as_bytes()]);
        let (page_size, after) = page(request.page_size, &request.page_token, query_hash)
            .and_then(|page| within_name(&[("prefix", &request.prefix)]).map(|()| page))
            .map_err(|invalid| self.invalid(call, Kind::Read, &invalid))?;
        let reads = match after {
            Some(_) if seeded_bugs::is_on("later-page-unchecked") => Reads::Anything,
            _ => Reads::List(Scope::Counters, &request.prefix),
        };
        let permit = self.permit(call, request.read, reads).await?;
        let range = query::Range {
            prefix: &request.prefix,
            after: after.as_deref(),
            ..query::Range::default()
        };
        let page = query::list_counters(&permit.view, range, page_limits(page_size));
        let header = self.read_header(&permit);
        drop(permit);
        let next_page_token = match page.items.last() {
            Some((last, _)) if page.more => page_token(query_hash, last),
            _ => String::new(),
        };
        let counters = page
            .items
            .into_iter()
            .map(|(name, record)| convert::counter_to_wire(name, &record))
            .collect();
        Ok(v1::CountersListResponse { header: Some(header), counters, next_page_token })
    }

    pub(crate) async fn keys_get(
        &self,
        call: &Call,
        request: v1::KeysGetRequest,
    ) -> Answered<v1::KeysGetResponse> {
        let key = convert::name("key", request.key)
            .map_err(|invalid| self.invalid(call, Kind::Read, &invalid))?;
        let permit = self
            .permit(call, request.read, Reads::Items(Scope::Keys, std::slice::from_ref(&key)))
            .await?;
        self.count_hot(ItemKind::Key, &key);
        let record = query::key(&permit.view, &key);
        let header = self.read_header(&permit);
        drop(permit);
        match record {
            Some(record) => Ok(v1::KeysGetResponse {
                header: Some(header),
                item: Some(convert::key_to_wire(key, record)),
            }),
            None => {
                let message = format!("key {key:?} does not exist");
                Err(self.not_found(call, reason::KEY_NOT_FOUND, message, header))
            }
        }
    }

    pub(crate) async fn keys_batch_get(
        &self,
        call: &Call,
        request: v1::KeysBatchGetRequest,
    ) -> Answered<v1::KeysBatchGetResponse> {
        let keys = self.batch_names(call, "keys", request.keys)?;
        let permit = self.permit(call, request.read, Reads::Items(Scope::Keys, &keys)).await?;
        let mut response = v1::KeysBatchGetResponse {
            header: Some(self.read_header(&permit)),
            ..v1::KeysBatchGetResponse::default()
        };
        let records = query::keys(&permit.view, &keys, limits::ANSWER_BYTES_MAX);
        drop(permit);
        let records = records.map_err(|error| {
            let invalid = Invalid::new("keys", error.to_string());
            self.invalid_for(call, Kind::Read, reason::ANSWER_TOO_LARGE, &invalid)
        })?;
        for (key, record) in keys.into_iter().zip(records) {
            match record {
                Some(record) => response.items.push(convert::key_to_wire(key, record)),
                None => response.missing.push(key),
            }
        }
        Ok(response)
    }

    pub(crate) async fn keys_scan(
        &self,
        call: &Call,
        request: v1::KeysScanRequest,
    ) -> Answered<v1::KeysScanResponse> {
        let query_hash = query_hash(&[
            b"keys",
            request.prefix.as_bytes(),
            request.start.as_bytes(),
            request.end.as_bytes(),
            &[u8::from(request.keys_only)],
        ]);
        let parts =
            [("prefix", &*request.prefix), ("start", &*request.start), ("end", &*request.end)];
        let (page_size, after) = page(request.page_size, &request.page_token, query_hash)
            .and_then(|page| within_name(&parts).map(|()| page))
            .map_err(|invalid| self.invalid(call, Kind::Read, &invalid))?;
        let reads = match after {
            Some(_) if seeded_bugs::is_on("later-page-unchecked") => Reads::Anything,
            _ => Reads::List(Scope::Keys, &request.prefix),
        };
        let permit = self.permit(call, request.read, reads).await?;
        let given = |text| Some(text).filter(|text: &&str| !text.is_empty());
        let range = query::Range {
            prefix: &request.prefix,
            start: given(&request.start),
            end: given(&request.end),
            after: after.as_deref(),
        };
        let limits = page_limits(page_size);
        let page = query::scan_keys(&permit.view, range, limits, request.keys_only);
        let header = self.read_header(&permit);
        drop(permit);
        let next_page_token = match page.items.last() {
            Some((last, _)) if page.more => page_token(query_hash, last),
            _ => String::new(),
        };
        let items =
            page.items.into_iter().map(|(key, record)| convert::key_to_wire(key, record)).collect();
        Ok(v1::KeysScanResponse { header: Some(header), items, next_page_token })
    }
}

impl Api {
    pub(crate) async fn sessions_list(
        &self,
        call: &Call,
        request: v1::SessionsListRequest,
    ) -> Answered<v1::SessionsListResponse> {
        let query_hash = query_hash(&[b"sessions", request.owner.as_bytes()]);
        let asked = || {
            let (page_size, after) = page(request.page_size, &request.page_token, query_hash)?;
            let after = match after {
                None => 0,
                Some(id) => {
                    id.parse().map_err(|_| Invalid::new("page_token", "is not a page token"))?
                }
            };
            let owner = match &*request.owner {
                "" => None,
                address => {
                    let invalid =
                        |_| Invalid::new("owner", "must be an IP address, without a port");
                    Some(address.parse::<Owner>().map_err(invalid)?.network())
                }
            };
            let owners = request.owners_max as usize;
            if owners > limits::SESSION_OWNERS_SHOWN_MAX {
                let description = format!("must be 0 to {}", limits::SESSION_OWNERS_SHOWN_MAX);
                return Err(Invalid::new("owners_max", description));
            }
            Ok((page_size, after, owner, owners))
        };
        let (page_size, after, owner, owners_max) =
            asked().map_err(|invalid| self.invalid(call, Kind::Read, &invalid))?;
        let permit = self.permit(call, request.read, Reads::Monitor).await?;
        let looked_at_max = limits::SESSIONS_PER_PAGE_LOOKED_AT_MAX;
        let page = query::list_sessions(&permit.view, after, owner, page_size, looked_at_max);
        let meta = query::meta(&permit.view);
        let owners = match owners_max {
            0 => Vec::new(),
            max => query::owners(&permit.view, max),
        };
        let header = self.read_header(&permit);
        drop(permit);
        let sessions = page.items.into_iter().map(|(session_id, session)| {
            convert::session_to_wire(session_id, &session, meta.log_time_ms)
        });
        let owners = owners
            .into_iter()
            .map(|(owner, sessions)| v1::SessionOwner { owner: owner.to_string(), sessions });
        Ok(v1::SessionsListResponse {
            header: Some(header),
            sessions: sessions.collect(),
            next_page_token: page
                .looked_at
                .map_or_else(String::new, |last| page_token(query_hash, &last.to_string())),
            sessions_open: meta.sessions,
            sessions_max: meta.settings.sessions_max,
            share_percent: u32::from(self.node.sessions_share_percent),
            owners: owners.collect(),
        })
    }
}

/// What a page token is bound to: the query without page size and read level, which may change from
/// page to page.
fn query_hash(parts: &[&[u8]]) -> [u8; 8] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    std::array::from_fn(|at| digest[at])
}

fn page_limits(items_max: usize) -> query::PageLimits {
    query::PageLimits { items_max, bytes_max: limits::ANSWER_BYTES_MAX }
}

/// Format of a page token.
const PAGE_TOKEN_VERSION: u8 = 1;

pub(super) fn page_token(query_hash: [u8; 8], last: &str) -> String {
    let mut token = String::with_capacity(2 * (9 + last.len()));
    let bytes = [PAGE_TOKEN_VERSION].into_iter().chain(query_hash).chain(last.bytes());
    for byte in bytes {
        token.push_str(&format!("{byte:02x}"));
    }
    token
}

/// Page size and last name of the page before.
pub(super) fn page(
    page_size: i32,
    page_token: &str,
    query_hash: [u8; 8],
) -> Result<(usize, Option<String>), Invalid> {
    let size = match usize::try_from(page_size) {
        Ok(0) => limits::PAGE_SIZE_DEFAULT,
        Ok(size) if size <= limits::PAGE_SIZE_MAX => size,
        _ => {
            let description = format!("must be 0 to {}", limits::PAGE_SIZE_MAX);
            return Err(Invalid::new("page_size", description));
        }
    };
    if page_token.is_empty() {
        return Ok((size, None));
    }
    let malformed = || Invalid::new("page_token", "is not a page token");
    let bytes = decode_hex(page_token).ok_or_else(malformed)?;
    let (head, last) = bytes.split_at_checked(9).ok_or_else(malformed)?;
    if head[0] != PAGE_TOKEN_VERSION {
        return Err(malformed());
    }
    if head[1..] != query_hash {
        return Err(Invalid::new("page_token", "belongs to another query"));
    }
    let last = String::from_utf8(last.to_vec()).map_err(|_| malformed())?;
    Ok((size, Some(last)))
}

/// Refuses a prefix or the end of a range that no name can have.
fn within_name(parts: &[(&str, &str)]) -> Result<(), Invalid> {
    for (field, part) in parts {
        if part.len() > limits::NAME_BYTES_MAX {
            let max = limits::NAME_BYTES_MAX;
            let description = format!("must have at most {max} bytes, has {}", part.len());
            return Err(Invalid::new(*field, description));
        }
    }
    Ok(())
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens_are_bound_to_their_query() {
        let one = query_hash(&[b"keys", b"a"]);
        let other = query_hash(&[b"keys", b"b"]);
        let token = page_token(one, "ključ");
        assert_eq!(page(0, &token, one), Ok((100, Some("ključ".to_owned()))));
        assert!(page(0, &token, other).is_err());
        for bad in ["zz", "0", "01", "ÿÿ", "99ffffffffffffffff"] {
            assert!(page(0, bad, one).is_err(), "{bad}");
        }
        for size in [-1, i32::MIN, 1001, i32::MAX] {
            assert!(page(size, "", one).is_err(), "{size}");
        }
    }
}
