//! Quotas on the wire.

use tally_proto::v1;

use super::{
    Answered, Api, Call,
    status::{Invalid, quota_scope_to_wire},
    who::Reads,
};
use crate::machine::{
    command::{Action, Answer},
    limits,
    quota::{QuotaCommand, QuotaLimits, QuotaRecord, Scope},
    quotas::quotas,
};

impl Api {
    pub(crate) async fn quotas_set(
        &self,
        call: &Call,
        request: v1::QuotasSetRequest,
    ) -> Answered<v1::QuotasSetResponse> {
        let (header, existed) = self.change_quota(call, set(request)).await?;
        Ok(v1::QuotasSetResponse { header, existed })
    }

    pub(crate) async fn quotas_delete(
        &self,
        call: &Call,
        request: v1::QuotasDeleteRequest,
    ) -> Answered<v1::QuotasDeleteResponse> {
        let (header, existed) = self.change_quota(call, delete(request)).await?;
        Ok(v1::QuotasDeleteResponse { header, existed })
    }

    /// The header of the answer, and whether the quota was there.
    async fn change_quota(
        &self,
        call: &Call,
        change: Result<QuotaCommand, Invalid>,
    ) -> Answered<(Option<v1::ResponseHeader>, bool)> {
        let written = self.write(call, change.map(Action::Quota), None).await?;
        let Answer::QuotaChanged { existed } = *written.answer() else {
            unreachable!("the machine answered {:?} to a change of quotas", written.answer())
        };
        Ok((Some(written.into_header()), existed))
    }

    pub(crate) async fn quotas_list(
        &self,
        call: &Call,
        request: v1::QuotasListRequest,
    ) -> Answered<v1::QuotasListResponse> {
        let permit = self.permit(call, request.read, Reads::Monitor).await?;
        let quotas = quotas(&permit.view).into_iter().map(quota_to_wire).collect();
        Ok(v1::QuotasListResponse { header: Some(self.read_header(&permit)), quotas })
    }
}

fn set(request: v1::QuotasSetRequest) -> Result<QuotaCommand, Invalid> {
    let v1::QuotasSetRequest { scope, prefix, limits } = request;
    let limits = limits_of(limits.unwrap_or_default())?;
    Ok(QuotaCommand::Set { scope: scope_of(scope)?, prefix: prefix_of(prefix)?, limits })
}

fn delete(request: v1::QuotasDeleteRequest) -> Result<QuotaCommand, Invalid> {
    let v1::QuotasDeleteRequest { scope, prefix } = request;
    Ok(QuotaCommand::Delete { scope: scope_of(scope)?, prefix: prefix_of(prefix)? })
}

fn scope_of(scope: i32) -> Result<Scope, Invalid> {
    match v1::QuotaScope::try_from(scope) {
        Ok(v1::QuotaScope::Counters) => Ok(Scope::Counters),
        Ok(v1::QuotaScope::Keys) => Ok(Scope::Keys),
        _ => Err(Invalid::new("scope", "must be COUNTERS or KEYS")),
    }
}

fn prefix_of(prefix: String) -> Result<String, Invalid> {
    if prefix.len() > limits::NAME_BYTES_MAX {
        let description = format!("must have at most {} bytes", limits::NAME_BYTES_MAX);
        return Err(Invalid::new("prefix", description));
    }
    Ok(prefix)
}

/// A soft limit above the hard one would never say anything.
fn limits_of(limits: v1::QuotaLimits) -> Result<QuotaLimits, Invalid> {
    let v1::QuotaLimits { soft_items, hard_items, soft_bytes, hard_bytes } = limits;
    for (field, soft, hard) in
        [("soft_items", soft_items, hard_items), ("soft_bytes", soft_bytes, hard_bytes)]
    {
        if let (Some(soft), Some(hard)) = (soft, hard)
            && soft > hard
        {
            let description = format!("must not be above the hard limit, which is {hard}");
            return Err(Invalid::new(format!("limits.{field}"), description));
        }
    }
    Ok(QuotaLimits { soft_items, hard_items, soft_bytes, hard_bytes })
}

fn quota_to_wire((scope, prefix, record): (Scope, String, QuotaRecord)) -> v1::Quota {
    let QuotaLimits { soft_items, hard_items, soft_bytes, hard_bytes } = record.limits;
    v1::Quota {
        scope: quota_scope_to_wire(scope) as i32,
        prefix,
        limits: Some(v1::QuotaLimits { soft_items, hard_items, soft_bytes, hard_bytes }),
        used_items: record.used.items,
        used_bytes: record.used.bytes,
        counting: !record.is_ready(),
        soft_passed: record.has_passed_soft(),
    }
}
