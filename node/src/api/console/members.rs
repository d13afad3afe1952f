//! Steps of the membership: what one would do, and doing it.

use std::time::Duration;

use serde_json::{Value, json as value};
use tally_proto::{reason, status::StatusBuilder, v1};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{
    CHANGE_TIME_MAX, Console, json, no_such_page,
    query::Query,
    tells::{answered, refused},
};
use crate::{
    api::{
        answer_bytes::AnswerBytes,
        audited::{Audited, Tells},
        requests::Runs,
    },
    port::plain::{Asked, Page},
};

/// Where they are; the step follows.
pub(super) const PATH: &str = "/api/members/";

/// Who is asked for the status may have heard of a node a moment ago: one look that finds nobody is none. As
/// `tally cluster forget` looks; the last one is well within [`CHANGE_TIME_MAX`].
const LOOKS: u32 = 3;
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What the answer to any of them has.
struct Told {
    header: Option<v1::ResponseHeader>,
    plan: Option<Box<v1::ClusterPlan>>,
    /// Of a transfer: who leads now.
    leader_id: Option<u64>,
}

/// An answer without more.
macro_rules! told {
    () => {
        |told| Told { header: told.header, plan: told.plan, leader_id: None }
    };
}

impl Console {
    /// Shows a step, with `preview=1`, or does it.
    pub(super) async fn member(&self, asked: &Asked, mut query: Query) -> Result<Page, Page> {
        let node_id = query.number("node")?.unwrap_or(0);
        let preview = query.flag("preview")?;
        match asked.path.strip_prefix(PATH).unwrap_or_default() {
            "add-learner" => {
                let peer_address = query.required("address")?;
                query.end()?;
                let request = v1::ClusterAddLearnerRequest { node_id, peer_address, preview };
                self.step(asked, request, preview, told!()).await
            }
            "promote" => {
                let accept_fewer_failures = query.flag("accept_fewer_failures")?;
                query.end()?;
                let request = v1::ClusterPromoteRequest { node_id, preview, accept_fewer_failures };
                self.step(asked, request, preview, told!()).await
            }
            "remove" => {
                let accept_fewer_failures = query.flag("accept_fewer_failures")?;
                query.end()?;
                let request = v1::ClusterRemoveRequest { node_id, preview, accept_fewer_failures };
                self.step(asked, request, preview, told!()).await
            }
            "forget" => {
                query.end()?;
                self.forget(asked, node_id, preview).await
            }
            "transfer-leader" => {
                query.end()?;
                let request = v1::ClusterTransferLeaderRequest { node_id, preview };
                let told: fn(v1::ClusterTransferLeaderResponse) -> Told = |told| Told {
                    header: told.header,
                    plan: told.plan,
                    leader_id: Some(told.leader_id),
                };
                self.step(asked, request, preview, told).await
            }
            "drain" => {
                let undo = query.flag("undo")?;
                query.end()?;
                let request = v1::ClusterDrainRequest { node_id, undo, preview };
                self.step(asked, request, preview, told!()).await
            }
            _ => Err(no_such_page()),
        }
    }

    async fn step<Q>(
        &self,
        asked: &Asked,
        request: Q,
        preview: bool,
        told: fn(Q::Response) -> Told,
    ) -> Result<Page, Page>
    where
        Q: Runs + AnswerBytes + Audited + 'static,
        Q::Response: Tells,
    {
        self.step_within(asked, request, preview, told, CHANGE_TIME_MAX).await
    }

    async fn step_within<Q>(
        &self,
        asked: &Asked,
        request: Q,
        preview: bool,
        told: fn(Q::Response) -> Told,
        patience: Duration,
    ) -> Result<Page, Page>
    where
        Q: Runs + AnswerBytes + Audited + 'static,
        Q::Response: Tells,
    {
        let (answer, took) = self.ask(asked, request, patience).await?;
        Ok(page(preview, &told(answer.into_inner()), took))
    }

    /// Removes a learner that is only left over, as `tally cluster forget` does. Who has a vote is refused here, and in the
    /// moment between this look and the step by the leader where that would cost a failure; who answers is left alone, as
    /// it would end. All of it together has the time of one change.
    async fn forget(&self, asked: &Asked, node_id: u64, preview: bool) -> Result<Page, Page> {
        let until = Instant::now() + CHANGE_TIME_MAX;
        let left = || until.saturating_duration_since(Instant::now());
        let remove =
            |preview| v1::ClusterRemoveRequest { node_id, preview, accept_fewer_failures: false };
        let (shown, took) = self.ask(asked, remove(true), left()).await?;
        let v1::ClusterRemoveResponse { header, mut plan } = shown.into_inner();
        if let Some(plan) = &mut plan
            && !plan.is_so
            && let Some(why) = self.is_no_left_over(asked, node_id, plan, until).await?
        {
            if !preview {
                let status =
                    StatusBuilder::new(Code::FailedPrecondition, reason::MEMBERSHIP_REFUSED, why);
                let status = status.outcome(v1::Outcome::NotApplied).build();
                return Err(refused(&status, took));
            }
            (plan.refusal, plan.passes) = (why, false);
        }
        if preview {
            return Ok(page(true, &Told { header, plan, leader_id: None }, took));
        }
        self.step_within(asked, remove(false), false, told!(), left()).await
    }

    /// Why a node is not to be forgotten, if so.
    async fn is_no_left_over(
        &self,
        asked: &Asked,
        node_id: u64,
        plan: &v1::ClusterPlan,
        until: Instant,
    ) -> Result<Option<String>, Page> {
        if plan.before.as_ref().is_some_and(|before| before.voters.contains(&node_id)) {
            return Ok(Some(format!(
                "node {node_id} has a vote: only learners are forgotten. Put another node into its place, or remove it"
            )));
        }
        for look in 0..LOOKS {
            if look > 0 {
                sleep(LOOK_AGAIN_AFTER).await;
            }
            let request = v1::ClusterStatusRequest { local_only: false };
            let left = until.saturating_duration_since(Instant::now());
            let (status, _) = self.ask(asked, request, left).await?;
            if status.get_ref().nodes.iter().any(|node| node.id == node_id && node.reachable) {
                return Ok(Some(format!(
                    "node {node_id} answers, and would be stopped: only nodes that are gone are forgotten. If it is to \
                     go, remove it"
                )));
            }
        }
        Ok(None)
    }
}

fn page(preview: bool, told: &Told, took: Duration) -> Page {
    let mut body: Value =
        value!({ "preview": preview, "plan": told.plan.as_deref().map(json::plan) });
    if let Some(leader_id) = told.leader_id {
        body["leader_id"] = value!(leader_id);
    }
    answered(body, told.header.as_ref(), took)
}
