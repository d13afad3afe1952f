//! Quotas: how many items there may be with a prefix, and how many bytes they may have.

use tally_proto::v1;

use crate::{
    call::{Read, Write, answers},
    client::Client,
};

impl Client {
    /// Makes a quota, or replaces all limits of the one with this scope and prefix. It takes a role that is admin,
    /// while authentication is on. Request and answer are the messages of the API as they are
    /// ([`proto`](crate::proto)). Sent again after an answer was lost, it changes nothing.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::proto::{QuotaLimits, QuotaScope, QuotasSetRequest};
    ///
    /// let limits = QuotaLimits { hard_items: Some(1_000), ..QuotaLimits::default() };
    /// let (scope, prefix) = (QuotaScope::Keys as i32, "cart/".to_owned());
    /// client.quota_set(QuotasSetRequest { scope, prefix, limits: Some(limits) }).await?;
    /// # Ok(()) }
    /// ```
    pub fn quota_set(&self, request: v1::QuotasSetRequest) -> Write<v1::QuotasSetRequest> {
        Write::new(self, request)
    }

    /// Removes a quota, and no item. It takes a role that is admin, while authentication is on.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// use tally_client::proto::{QuotaScope, QuotasDeleteRequest};
    ///
    /// let (scope, prefix) = (QuotaScope::Keys as i32, "cart/".to_owned());
    /// let existed = client.quota_delete(QuotasDeleteRequest { scope, prefix }).await?.existed;
    /// # Ok(()) }
    /// ```
    pub fn quota_delete(&self, request: v1::QuotasDeleteRequest) -> Write<v1::QuotasDeleteRequest> {
        Write::new(self, request)
    }

    /// Lists all quotas with what is used. It takes a role that is admin or monitor, while authentication is on.
    ///
    /// ```no_run
    /// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
    /// for quota in client.quota_list().await?.quotas {
    ///     println!("{:?}: {} items, {} bytes", quota.prefix, quota.used_items, quota.used_bytes);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn quota_list(&self) -> Read<v1::QuotasListRequest> {
        Read::new(self, v1::QuotasListRequest::default())
    }
}

answers! {
    Write<v1::QuotasSetRequest> -> v1::QuotasSetResponse: |answer| answer;
    Write<v1::QuotasDeleteRequest> -> v1::QuotasDeleteResponse: |answer| answer;
    Read<v1::QuotasListRequest> -> v1::QuotasListResponse: |answer| answer;
}
