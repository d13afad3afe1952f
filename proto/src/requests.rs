//! Every request of the API, in one table: both ends make what they do with a request from it, whichever
//! it is.

/// Calls the macro that is named with the table of all requests.
///
/// A group for each service has the modules of its client and its server in [`v1`](crate::v1), and in it
/// a row for each request: the kind, the name of its field in `Call.request` of the stream, its variant
/// there and in `Answer.response`, its message, that of its answer, and the method of the service.
///
/// The kind says what is to be known of a request without looking into it:
/// - `write`: one operation, with `options`; it may also be a step of an `Apply`;
/// - `apply`: an atomic step, with `options`;
/// - `read`: it changes nothing, and has `read` options;
/// - `session`: opens, renews or closes a session: sent twice, it does no harm;
/// - `status`: it changes nothing, and speaks of one node;
/// - `report`: as `status`, and its answer may be large;
/// - `change`: changes the cluster: sent twice, it is asked for twice;
/// - `auth`: changes users, roles or tokens: sent twice, it does no harm (a token that nobody was told of
///   speaks for nobody);
/// - `backup`: begins a backup, or takes a step of a restore: sent twice, it does no harm;
/// - `quota`: changes quotas: sent twice, it does no harm.
///
/// ```
/// macro_rules! count {
///     ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
///         $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
///     })*) => {
///         [$($(stringify!($kind)),*),*]
///     };
/// }
/// let kinds = tally_proto::requests!(count);
/// assert!(kinds.contains(&"write"));
/// ```
#[macro_export]
macro_rules! requests {
    ($with:ident) => {
        $with! {
            Counters(counters_client::CountersClient, counters_server::Counters) {
                write counters_add CountersAdd(CountersAddRequest) -> CountersWriteResponse: add;
                read counters_get CountersGet(CountersGetRequest) -> CountersGetResponse: get;
                read counters_batch_get CountersBatchGet(CountersBatchGetRequest)
                    -> CountersBatchGetResponse: batch_get;
                write counters_set CountersSet(CountersSetRequest) -> CountersWriteResponse: set;
                write counters_compare_and_set CountersCompareAndSet(CountersCompareAndSetRequest)
                    -> CountersWriteResponse: compare_and_set;
                write counters_delete CountersDelete(CountersDeleteRequest)
                    -> CountersWriteResponse: delete;
                read counters_list CountersList(CountersListRequest) -> CountersListResponse: list;
                write counters_configure CountersConfigure(CountersConfigureRequest)
                    -> CountersWriteResponse: configure;
            }
            Keys(keys_client::KeysClient, keys_server::Keys) {
                write keys_put KeysPut(KeysPutRequest) -> KeysWriteResponse: put;
                read keys_get KeysGet(KeysGetRequest) -> KeysGetResponse: get;
                read keys_batch_get KeysBatchGet(KeysBatchGetRequest)
                    -> KeysBatchGetResponse: batch_get;
                write keys_delete KeysDelete(KeysDeleteRequest) -> KeysWriteResponse: delete;
                read keys_scan KeysScan(KeysScanRequest) -> KeysScanResponse: scan;
            }
            Transactions(transactions_client::TransactionsClient, transactions_server::Transactions) {
                apply transactions_apply TransactionsApply(TransactionsApplyRequest)
                    -> TransactionsApplyResponse: apply;
            }
            Sessions(sessions_client::SessionsClient, sessions_server::Sessions) {
                session sessions_open SessionsOpen(SessionsOpenRequest) -> SessionsOpenResponse: open;
                session sessions_renew SessionsRenew(SessionsRenewRequest)
                    -> SessionsRenewResponse: renew;
                session sessions_close SessionsClose(SessionsCloseRequest)
                    -> SessionsCloseResponse: close;
                read sessions_list SessionsList(SessionsListRequest) -> SessionsListResponse: list;
            }
            Cluster(cluster_client::ClusterClient, cluster_server::Cluster) {
                status cluster_status ClusterStatus(ClusterStatusRequest)
                    -> ClusterStatusResponse: status;
                change cluster_add_learner ClusterAddLearner(ClusterAddLearnerRequest)
                    -> ClusterAddLearnerResponse: add_learner;
                change cluster_promote ClusterPromote(ClusterPromoteRequest)
                    -> ClusterPromoteResponse: promote;
                change cluster_remove ClusterRemove(ClusterRemoveRequest)
                    -> ClusterRemoveResponse: remove;
                change cluster_transfer_leader ClusterTransferLeader(ClusterTransferLeaderRequest)
                    -> ClusterTransferLeaderResponse: transfer_leader;
                change cluster_drain ClusterDrain(ClusterDrainRequest) -> ClusterDrainResponse: drain;
                change cluster_snapshot ClusterSnapshot(ClusterSnapshotRequest)
                    -> ClusterSnapshotResponse: snapshot;
                change cluster_finalize_upgrade ClusterFinalizeUpgrade(ClusterFinalizeUpgradeRequest)
                    -> ClusterFinalizeUpgradeResponse: finalize_upgrade;
                change cluster_claim_node_id ClusterClaimNodeId(ClusterClaimNodeIdRequest)
                    -> ClusterClaimNodeIdResponse: claim_node_id;
                report cluster_metrics ClusterMetrics(ClusterMetricsRequest)
                    -> ClusterMetricsResponse: metrics;
                report cluster_diagnose ClusterDiagnose(ClusterDiagnoseRequest)
                    -> ClusterDiagnoseResponse: diagnose;
            }
            Auth(auth_client::AuthClient, auth_server::Auth) {
                auth auth_change AuthChange(AuthChangeRequest) -> AuthChangeResponse: change;
                read auth_list AuthList(AuthListRequest) -> AuthListResponse: list;
                read auth_can AuthCan(AuthCanRequest) -> AuthCanResponse: can;
            }
            Backup(backup_client::BackupClient, backup_server::Backup) {
                backup backup_open BackupOpen(BackupOpenRequest) -> BackupOpenResponse: open;
                report backup_read BackupRead(BackupReadRequest) -> BackupReadResponse: read;
                backup backup_restore BackupRestore(BackupRestoreRequest)
                    -> BackupRestoreResponse: restore;
            }
            Quotas(quotas_client::QuotasClient, quotas_server::Quotas) {
                quota quotas_set QuotasSet(QuotasSetRequest) -> QuotasSetResponse: set;
                quota quotas_delete QuotasDelete(QuotasDeleteRequest)
                    -> QuotasDeleteResponse: delete;
                read quotas_list QuotasList(QuotasListRequest) -> QuotasListResponse: list;
            }
        }
    };
}
