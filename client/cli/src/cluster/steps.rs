//! The steps, and the workflows that are made of them.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use serde_json::json;
use tally_client::{
    Client, Error, Outcome,
    proto::{ClusterPlan, ClusterVoters},
};
use tokio::time::{Instant, sleep};

use super::{
    Add, Drain, Forget, How, NodeId, Promote, Remove, Replace, TransferLeader, place,
    show::{self, StepShown},
};
use crate::{
    args::Time,
    output::{Exit, Failure, Output, line, note},
};

/// How often it is looked how far a new node is.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often somebody who waits is told of it.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// How long a step is asked for again whose answer was lost, or that could not be begun.
pub(super) const STEP_PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked, this long apart, whether a node that is to be forgotten answers.
const LOOKS: u32 = 3;
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One step.
#[derive(Debug, Clone)]
enum Step {
    AddLearner(u64, String),
    Promote(u64, bool),
    Remove(u64, bool),
    TransferLeader(u64),
    Drain(u64, bool),
}

impl Step {
    fn shown(&self) -> String {
        match self {
            Step::AddLearner(0, address) => format!("add the node at {address} as a learner"),
            Step::AddLearner(id, address) => format!("add node {id} at {address} as a learner"),
            Step::Promote(id, _) => format!("make node {id} a voter"),
            Step::Remove(id, _) => format!("remove node {id}"),
            Step::TransferLeader(0) => "hand leadership over".to_owned(),
            Step::TransferLeader(id) => format!("hand leadership to node {id}"),
            Step::Drain(id, false) => format!("keep node {id} from leading"),
            Step::Drain(id, true) => format!("let node {id} lead again"),
        }
    }
}

/// What a step did, or would do.
#[derive(Debug, Default)]
struct Answer {
    plan: ClusterPlan,
    /// Who leads after a transfer; 0 of any other step, and of a preview.
    leader_id: u64,
}

/// Why a transfer was not what was asked for: somebody else leads now.
fn led_by_another(step: &Step, leader_id: u64) -> Option<String> {
    match step {
        Step::TransferLeader(to @ 1..) if ![0, *to].contains(&leader_id) => Some(format!(
            "node {leader_id} leads, not node {to}, which was to take over. Nothing is lost: give the same command again"
        )),
        _ => None,
    }
}

/// Whoever has given the command.
pub(super) struct Operator<'a> {
    client: &'a Client,
    how: &'a How,
    output: Output,
    done: Vec<StepShown>,
    is_asked: bool,
}

impl<'a> Operator<'a> {
    pub(super) fn new(client: &'a Client, how: &'a How, output: Output) -> Self {
        Operator { client, how, output, done: Vec::new(), is_asked: false }
    }

    async fn ask(&self, step: &Step, preview: bool) -> Result<Answer, Error> {
        macro_rules! plan {
            ($call:expr) => {{
                let call = $call;
                let call = if preview { call.preview() } else { call };
                let answer = call.await?;
                Answer { plan: answer.plan.map(|plan| *plan).unwrap_or_default(), leader_id: 0 }
            }};
        }
        macro_rules! accepting {
            ($call:expr, $accept:expr) => {
                if *$accept { $call.accept_fewer_failures() } else { $call }
            };
        }
        Ok(match step {
            Step::AddLearner(id, address) => plan!(self.client.add_learner(*id, address.as_str())),
            Step::Promote(id, accept) => plan!(accepting!(self.client.promote(*id), accept)),
            Step::Remove(id, accept) => plan!(accepting!(self.client.remove(*id), accept)),
            Step::TransferLeader(id) if preview => plan!(self.client.transfer_leader(*id)),
            Step::TransferLeader(id) => {
                let answer = self.client.transfer_leader(*id).await?;
                let plan = answer.plan.map(|plan| *plan).unwrap_or_default();
                Answer { plan, leader_id: answer.leader_id }
            }
            Step::Drain(id, false) => plan!(self.client.drain(*id)),
            Step::Drain(id, true) => plan!(self.client.drain(*id).undo()),
        })
    }

    /// Asks until there is an answer that does not pass by itself. A preview changes nothing however often it is asked
    /// for, and of a step what was done is answered as done.
    async fn insist(&self, step: &Step, preview: bool) -> Result<Answer, Failure> {
        let until = Instant::now() + STEP_PATIENCE;
        let mut is_told = false;
        loop {
            match self.ask(step, preview).await {
                Ok(answer) => return Ok(answer),
                Err(error) if is_passing(&error) && Instant::now() < until => {
                    if !std::mem::replace(&mut is_told, true) {
                        note(&format!("{}: {}; asking again", step.shown(), error.message()));
                    }
                    sleep(LOOK_EVERY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn preview(&self, step: &Step) -> Result<ClusterPlan, Failure> {
        Ok(self.insist(step, true).await?.plan)
    }

    /// Does a step.
    async fn take(&mut self, step: &Step) -> Result<ClusterPlan, Failure> {
        let Answer { plan, leader_id } = self.insist(step, false).await?;
        if let Some(why) = led_by_another(step, leader_id) {
            return Err(Failure::unable(why));
        }
        self.done.push(StepShown::of(&step.shown(), &plan));
        Ok(plan)
    }

    /// Shows a step, and asks whether it is wanted, once for each command.
    fn show(&mut self, step: &Step, plan: &ClusterPlan) -> Result<(), Failure> {
        if !self.output.json {
            line(&show::plan(&step.shown(), plan))?;
        }
        if !plan.refusal.is_empty() && !plan.passes {
            return Err(self.refused(step, plan));
        }
        Ok(())
    }

    fn refused(&self, step: &Step, plan: &ClusterPlan) -> Failure {
        let message = format!("refused to {}: {}", step.shown(), plan.refusal);
        let value = json!({ "steps": [StepShown::of(&step.shown(), plan)] });
        Failure::membership(message, &value)
    }

    /// Whether it is to be done; asked at a terminal only, and once.
    fn is_wanted(&mut self, question: &str) -> Result<bool, Failure> {
        let was_asked = std::mem::replace(&mut self.is_asked, true);
        match was_asked && !self.how.preview {
            true => Ok(true),
            false => is_wanted(self.how, self.output, question),
        }
    }

    /// The end: what was done, or would be.
    fn end(&self, text: &str, plan: &ClusterPlan) -> Result<Exit, Failure> {
        let value = json!({
            "preview": self.how.preview, "steps": self.done, "next_node_id": plan.next_node_id,
        });
        self.output.result(&value, |_| text.to_owned())?;
        Ok(Exit::Done)
    }

    /// A step by itself.
    async fn alone(&mut self, step: Step) -> Result<Exit, Failure> {
        let plan = self.preview(&step).await?;
        self.show(&step, &plan)?;
        if plan.passes {
            return Err(self.refused(&step, &plan));
        }
        if plan.is_so && matches!(step, Step::TransferLeader(_)) {
            return self.end("", &plan);
        }
        if !self.is_wanted(&format!("{}?", step.shown()))? {
            self.done.push(StepShown::of(&step.shown(), &plan));
            return self.end("nothing was done: it is a preview", &plan);
        }
        let plan = self.take(&step).await?;
        self.end(if plan.is_so { "" } else { "done" }, &plan)
    }

    pub(super) async fn promote(&mut self, it: &Promote) -> Result<Exit, Failure> {
        self.alone(Step::Promote(it.node_id, it.accept_fewer_failures)).await
    }

    pub(super) async fn remove(&mut self, it: &Remove) -> Result<Exit, Failure> {
        self.alone(Step::Remove(it.node_id, it.accept_fewer_failures)).await
    }

    /// A removal that is sure to be of a left-over: who has a vote is refused here, and in the moment between this look
    /// and the step by the leader, which judges by the quorum as it is then. Who answers is left alone: it would end.
    pub(super) async fn forget(&mut self, it: &Forget) -> Result<Exit, Failure> {
        let id = it.node_id;
        let step = Step::Remove(id, false);
        let mut plan = self.preview(&step).await?;
        let answers = self.answers(id).await?;
        if plan.before.as_ref().is_some_and(|before| before.voters.contains(&id)) {
            plan.refusal = format!(
                "node {id} has a vote: only learners are forgotten. Put another node into its place (`tally cluster \
                 replace {id} ADDRESS`), or take the vote away (`tally cluster remove {id}`)"
            );
        } else if answers {
            plan.refusal = format!(
                "node {id} answers, and would be stopped: only nodes that are gone are forgotten. If it is to go, \
                 `tally cluster remove {id}`"
            );
        }
        if !plan.refusal.is_empty() {
            plan.passes = false;
            self.show(&step, &plan)?;
        }
        self.alone(step).await
    }

    /// Whether a node answers whoever is asked for the status, who may have heard of it a moment ago: one look
    /// that finds nobody is none.
    async fn answers(&self, id: u64) -> Result<bool, Failure> {
        for look in 0..LOOKS {
            if look > 0 {
                sleep(LOOK_AGAIN_AFTER).await;
            }
            let status = self.client.status().await?;
            if status.nodes.iter().any(|node| node.id == id && node.reachable) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn transfer(&mut self, it: &TransferLeader) -> Result<Exit, Failure> {
        self.alone(Step::TransferLeader(it.node_id.unwrap_or(0))).await
    }

    pub(super) async fn drain(&mut self, it: &Drain) -> Result<Exit, Failure> {
        self.alone(Step::Drain(it.node_id, it.undo)).await
    }

    pub(super) async fn add(&mut self, add: &Add) -> Result<Exit, Failure> {
        let NodeId(id) = add.node_id;
        let first = Step::AddLearner(id, add.address.clone());
        let plan = self.preview(&first).await?;
        self.show(&first, &plan)?;
        if !self.is_wanted("add it?")? {
            self.done.push(StepShown::of(&first.shown(), &plan));
            let then = if add.learner { "" } else { ", then it becomes a voter" };
            return self.end(&format!("nothing was done: it is a preview{then}"), &plan);
        }
        let plan = self.take(&first).await?;
        if add.learner {
            return self.end(&format!("node {} is a learner", plan.node_id), &plan);
        }
        let plan = self.make_voter(plan.node_id, add.patience.wait).await?;
        self.end(&format!("node {} is a voter", plan.node_id), &plan)
    }

    /// Waits until a learner has caught up, and promotes it.
    async fn make_voter(&mut self, id: u64, Time(wait): Time) -> Result<ClusterPlan, Failure> {
        let step = Step::Promote(id, false);
        let (until, mut tell_at) = (Instant::now() + wait, Instant::now());
        loop {
            let plan = self.preview(&step).await?;
            if plan.refusal.is_empty() {
                self.show(&step, &plan)?;
                // Between that look and this one it may have fallen back.
                match self.ask(&step, false).await {
                    Ok(Answer { plan, .. }) => {
                        self.done.push(StepShown::of(&step.shown(), &plan));
                        return Ok(plan);
                    }
                    Err(error) if is_passing(&error) || is_refused(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            } else if !plan.passes {
                return Err(self.refused(&step, &plan));
            }
            let now = Instant::now();
            if now >= until {
                let message = format!(
                    "node {id} is a learner and has not caught up within {} s: {}. Nothing is lost: give the same \
                     command again to wait on, or `tally cluster remove {id}` to take it out",
                    wait.as_secs(),
                    plan.refusal
                );
                return Err(Failure::unable(message));
            }
            if now >= tell_at {
                tell_at = now + TOLD_EVERY;
                note(&match plan.lag_entries {
                    Some(behind) => format!("node {id} is {behind} entries behind"),
                    None => format!("node {id} has not been heard of yet"),
                });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn replace(&mut self, replace: &Replace) -> Result<Exit, Failure> {
        let old = replace.old;
        let last = Step::Remove(old, false);
        let going = self.preview(&last).await?;
        let is_member = going.before.as_ref().is_some_and(|voters| has(voters, old));
        if !is_member && !going.is_so {
            return Err(self.refused(&last, &going));
        }
        let NodeId(id) = replace.id;
        let first = Step::AddLearner(id, replace.address.clone());
        let coming = self.preview(&first).await?;
        if going.is_so {
            return self.found_gone(replace, &first, &coming).await;
        }
        self.show(&first, &coming)?;
        if coming.node_id == old {
            let message = format!(
                "the node at {} is node {old} itself: start the new one with an empty directory under the next free \
                 id, {}",
                replace.address, coming.next_node_id
            );
            return Err(Failure::membership(message, &json!({ "steps": [] })));
        }
        let new = coming.node_id;
        let was_voter = going.before.as_ref().is_some_and(|voters| voters.voters.contains(&old));
        if !self.is_wanted(&format!("put node {new} into the place of node {old}?"))? {
            self.done.push(StepShown::of(&first.shown(), &coming));
            let then =
                if was_voter { format!("node {new} becomes a voter, and ") } else { String::new() };
            let text =
                format!("nothing was done: it is a preview. Then {then}node {old} is removed");
            return self.end(&text, &coming);
        }
        if !coming.is_so {
            self.take(&first).await?;
        }
        // Of a learner a learner takes the place.
        if was_voter {
            self.make_voter(new, replace.patience.wait).await?;
        }
        let plan = self.remove_old(old).await?;
        self.end(&format!("node {new} has the place of node {old}"), &plan)
    }

    /// Given again, or for one that somebody else took out ([`place`]).
    async fn found_gone(
        &mut self,
        Replace { old, address, .. }: &Replace,
        first: &Step,
        coming: &ClusterPlan,
    ) -> Result<Exit, Failure> {
        if !coming.refusal.is_empty() {
            return Err(self.refused(first, coming));
        }
        let end = place::taken(*old, address, coming).map_err(|message| {
            Failure::membership(
                message,
                &json!({ "steps": [StepShown::of(&first.shown(), coming)] }),
            )
        })?;
        self.show(first, coming)?;
        self.done.push(StepShown::of(&first.shown(), coming));
        if self.how.preview {
            return self.end(&format!("nothing was done: it is a preview. {end}"), coming);
        }
        // That it is gone was a look, at a membership that may be overruled. Asked for, it is confirmed by a quorum.
        let plan = self.remove_old(*old).await?;
        self.end(&end, &plan)
    }

    async fn remove_old(&mut self, old: u64) -> Result<ClusterPlan, Failure> {
        let step = Step::Remove(old, false);
        let plan = self.preview(&step).await?;
        self.show(&step, &plan)?;
        let nodes = self.client.status().await?.nodes;
        if nodes.iter().any(|node| node.id == old && node.leader_id == old) && !plan.is_so {
            // It would go on to lead until it is out, and then nobody would for an election. Who is next is chosen there.
            self.take(&Step::TransferLeader(0)).await?;
        }
        self.take(&step).await
    }
}

fn has(voters: &ClusterVoters, id: u64) -> bool {
    voters.voters.contains(&id) || voters.learners.contains(&id)
}

/// Whether something is to be done; asked at a terminal only.
pub(super) fn is_wanted(how: &How, output: Output, question: &str) -> Result<bool, Failure> {
    if how.preview {
        return Ok(false);
    }
    let is_there = io::stdin().is_terminal() && io::stderr().is_terminal();
    if how.yes || output.json || !is_there {
        return Ok(true);
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush())?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let is_yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if !is_yes {
        return Err(Failure::cut_short("nothing was done".to_owned()));
    }
    Ok(true)
}

/// It may work in a moment, or was done already.
pub(super) fn is_passing(error: &Error) -> bool {
    error.outcome() == Some(Outcome::Unknown)
        || matches!(
            error.reason(),
            tally_client::reason::NOT_LEADER
                // Of a preview, which has no outcome.
                | tally_client::reason::NO_ANSWER
                | tally_client::reason::OUTCOME_UNKNOWN
                | tally_client::reason::NO_QUORUM
                | tally_client::reason::NOT_PROPOSED
                | tally_client::reason::SHUTTING_DOWN
        )
}

fn is_refused(error: &Error) -> bool {
    error.reason() == tally_client::reason::MEMBERSHIP_REFUSED
}
