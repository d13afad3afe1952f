//! Steps of the membership: what one would do, and doing it.

use serde_json::{Value, json as value};
use tally_proto::v1;

use super::{CHANGE_TIME_MAX, Console, json, no_such_page, query::Query, tells::answered};
use crate::port::plain::{Asked, Page};

/// Where they are; the step follows.
pub(super) const PATH: &str = "/api/members/";

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
                let (told, took) = self.ask(asked, request, CHANGE_TIME_MAX).await?;
                let told = told.get_ref();
                Ok(answered(step(preview, told.plan.as_deref()), told.header.as_ref(), took))
            }
            "promote" => {
                let accept_fewer_failures = query.flag("accept_fewer_failures")?;
                query.end()?;
                let request = v1::ClusterPromoteRequest { node_id, preview, accept_fewer_failures };
                let (told, took) = self.ask(asked, request, CHANGE_TIME_MAX).await?;
                let told = told.get_ref();
                Ok(answered(step(preview, told.plan.as_deref()), told.header.as_ref(), took))
            }
            "remove" => {
                let accept_fewer_failures = query.flag("accept_fewer_failures")?;
                query.end()?;
                let request = v1::ClusterRemoveRequest { node_id, preview, accept_fewer_failures };
                let (told, took) = self.ask(asked, request, CHANGE_TIME_MAX).await?;
                let told = told.get_ref();
                Ok(answered(step(preview, told.plan.as_deref()), told.header.as_ref(), took))
            }
            "transfer-leader" => {
                query.end()?;
                let request = v1::ClusterTransferLeaderRequest { node_id, preview };
                let (told, took) = self.ask(asked, request, CHANGE_TIME_MAX).await?;
                let told = told.get_ref();
                let mut body = step(preview, told.plan.as_deref());
                body["leader_id"] = value!(told.leader_id);
                Ok(answered(body, told.header.as_ref(), took))
            }
            "drain" => {
                let undo = query.flag("undo")?;
                query.end()?;
                let request = v1::ClusterDrainRequest { node_id, undo, preview };
                let (told, took) = self.ask(asked, request, CHANGE_TIME_MAX).await?;
                let told = told.get_ref();
                Ok(answered(step(preview, told.plan.as_deref()), told.header.as_ref(), took))
            }
            _ => Err(no_such_page()),
        }
    }
}

fn step(preview: bool, plan: Option<&v1::ClusterPlan>) -> Value {
    value!({ "preview": preview, "plan": plan.map(json::plan) })
}
