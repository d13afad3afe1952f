//! `tally quota`: how many items there may be with a prefix, and how many bytes they may have.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tally_client::{
    Client,
    proto::{Quota as Listed, QuotaLimits, QuotaScope, QuotasDeleteRequest, QuotasSetRequest},
};

use crate::output::{Failure, Output, table, word};

#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// Makes a quota, or replaces all limits of the one with this prefix: a limit that is not given is none. Above a
    /// hard limit what would be more is refused; adds to counters that exist, deletes and reads never are.
    Set(Set),
    /// Removes a quota, and no item.
    Delete(Of),
    /// Shows all quotas, with what is used.
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Of {
    /// What the names begin with; "" for all.
    prefix: String,
    /// Which items.
    #[arg(long, value_enum)]
    scope: Scope,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    of: Of,
    /// Items above which the quota is shown as passed.
    #[arg(long, value_name = "N")]
    soft_items: Option<u64>,
    /// Items above which more are refused.
    #[arg(long, value_name = "N")]
    hard_items: Option<u64>,
    /// Bytes above which the quota is shown as passed. A key has those of its name and value, a counter those of its
    /// name and 8.
    #[arg(long, value_name = "N")]
    soft_bytes: Option<u64>,
    /// Bytes above which more are refused.
    #[arg(long, value_name = "N")]
    hard_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scope {
    /// Counters.
    Counters,
    /// Keys.
    Keys,
}

impl Scope {
    fn on_the_wire(self) -> i32 {
        match self {
            Scope::Counters => QuotaScope::Counters as i32,
            Scope::Keys => QuotaScope::Keys as i32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Scope::Counters => "counters",
            Scope::Keys => "keys",
        }
    }
}

pub(crate) async fn run(client: &Client, command: &Quota, output: Output) -> Result<(), Failure> {
    let (of, existed, done) = match command {
        Quota::List => return list(client, output).await,
        Quota::Set(Set { of, soft_items, hard_items, soft_bytes, hard_bytes }) => {
            let limits = Some(QuotaLimits {
                soft_items: *soft_items,
                hard_items: *hard_items,
                soft_bytes: *soft_bytes,
                hard_bytes: *hard_bytes,
            });
            let (scope, prefix) = (of.scope.on_the_wire(), of.prefix.clone());
            let answer = client.quota_set(QuotasSetRequest { scope, prefix, limits }).await?;
            (of, answer.existed, "quota")
        }
        Quota::Delete(of) => {
            let (scope, prefix) = (of.scope.on_the_wire(), of.prefix.clone());
            let answer = client.quota_delete(QuotasDeleteRequest { scope, prefix }).await?;
            (of, answer.existed, if answer.existed { "removed the quota" } else { "no quota" })
        }
    };
    let Of { prefix, scope } = of;
    let value = json!({ "scope": scope.name(), "prefix": prefix, "existed": existed });
    output.written(&value, |_| match prefix.as_str() {
        "" => format!("{done} on all {}", scope.name()),
        prefix => format!("{done} on {} with {}", scope.name(), word(prefix)),
    })?;
    Ok(())
}

fn scope_name(quota: &Listed) -> &'static str {
    match quota.scope() {
        QuotaScope::Counters => "counters",
        QuotaScope::Keys => "keys",
        QuotaScope::Unspecified => "?",
    }
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let list = client.quota_list().await?;
    let quotas = list.quotas.iter().map(|quota| {
        let limits = quota.limits.unwrap_or_default();
        json!({
            "scope": scope_name(quota), "prefix": quota.prefix,
            "used_items": quota.used_items, "used_bytes": quota.used_bytes,
            "soft_items": limits.soft_items, "hard_items": limits.hard_items,
            "soft_bytes": limits.soft_bytes, "hard_bytes": limits.hard_bytes,
            "soft_passed": quota.soft_passed, "counting": quota.counting,
        })
    });
    let value = json!({ "quotas": quotas.collect::<Vec<Value>>() });
    output.result(&value, |_| match list.quotas.is_empty() {
        true => "there are no quotas".to_owned(),
        false => table(&rows(&list.quotas)),
    })?;
    Ok(())
}

fn rows(quotas: &[Listed]) -> Vec<Vec<String>> {
    let head = ["scope", "prefix", "items", "soft", "hard", "bytes", "soft", "hard", "state"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let limit = |limit: Option<u64>| limit.map_or("-".to_owned(), |limit| limit.to_string());
    rows.extend(quotas.iter().map(|quota| {
        let limits = quota.limits.unwrap_or_default();
        let is_full = |used: u64, hard: Option<u64>| hard.is_some_and(|hard| used >= hard);
        let full = is_full(quota.used_items, limits.hard_items)
            || is_full(quota.used_bytes, limits.hard_bytes);
        let state = match (quota.counting, full, quota.soft_passed) {
            (true, ..) => "counting",
            (_, true, _) => "full",
            (_, _, true) => "above soft",
            _ => "ok",
        };
        vec![
            scope_name(quota).to_owned(),
            word(&quota.prefix).into_owned(),
            quota.used_items.to_string(),
            limit(limits.soft_items),
            limit(limits.hard_items),
            quota.used_bytes.to_string(),
            limit(limits.soft_bytes),
            limit(limits.hard_bytes),
            state.to_owned(),
        ]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_quota_is_said_to_be() {
        let limits = |soft_items, hard_items, hard_bytes| QuotaLimits {
            soft_items,
            hard_items,
            soft_bytes: None,
            hard_bytes,
        };
        let state = |limits, used_items, soft_passed, counting| {
            let limits = Some(limits);
            let quota = Listed {
                scope: QuotaScope::Keys as i32,
                prefix: "a b".to_owned(),
                limits,
                used_items,
                used_bytes: 10,
                counting,
                soft_passed,
            };
            rows(&[quota]).remove(1).pop().unwrap()
        };
        assert_eq!(state(limits(None, None, None), 1, false, false), "ok");
        assert_eq!(state(limits(Some(0), Some(2), None), 1, true, false), "above soft");
        assert_eq!(state(limits(Some(0), Some(1), None), 1, true, false), "full");
        assert_eq!(state(limits(None, None, Some(9)), 1, false, false), "full");
        assert_eq!(state(limits(None, Some(0), None), 1, true, true), "counting");
    }
}
