//! What may happen to bytes on their way: the state of every link, in each direction for itself.
//!
//! A *place* is a node's id, or [`CLIENTS`] for the place where all clients are. A fault belongs to a direction
//! (from, to) and not to a connection: a connection that node 1 opened to node 2 carries requests under (1, 2) and
//! their answers under (2, 1). So a link that is cut one way loses requests of one side and answers of the other,
//! as a broken network does.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::watch;

use crate::wire::Carried;

/// The place of all clients.
pub(crate) const CLIENTS: u64 = 0;

/// The slowest that a link can be made: longer is a cut.
pub(crate) const DELAY_MS_MAX: u64 = 5_000;

/// The most that can be lost, in percent: nothing arrives behind more.
pub(crate) const LOSS_PERCENT_MAX: u8 = 90;

/// What a direction does to bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// Nothing arrives, and nobody is told.
    pub(crate) cut: bool,
    /// It takes so long.
    pub(crate) delay_ms: u64,
    /// Of what is sent so many percent are lost, and sent again by TCP: they are late, and all behind them.
    pub(crate) loss_percent: u8,
    /// What would arrive ends its connection instead: who waits for it is told so, and never gets it.
    pub(crate) breaks: bool,
}

impl Fault {
    /// After how long a piece arrives that is sent now. `draw` gives numbers from 0 to 99.
    ///
    /// A lost piece is sent again after TCP's shortest timeout, and lost again with the same chance, each time
    /// after twice as long. That is what loss is to a program: it is never told of it, it waits.
    pub(crate) fn takes(&self, mut draw: impl FnMut() -> u8) -> Duration {
        let mut ms = self.delay_ms;
        let mut timeout = RETRANSMISSION_MS;
        while timeout <= RETRANSMISSION_MS_MAX && draw() < self.loss_percent {
            ms += timeout;
            timeout *= 2;
        }
        Duration::from_millis(ms)
    }
}

/// TCP's shortest time after which it sends again, on Linux …
const RETRANSMISSION_MS: u64 = 200;

/// … and where the lab stops to double it, so that a link with losses comes to its senses while somebody looks.
const RETRANSMISSION_MS_MAX: u64 = 1_600;

/// One direction.
struct Direction {
    fault: watch::Sender<Fault>,
    arrived: Mutex<Arrived>,
}

/// What came through a direction.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Arrived {
    /// Bytes since somebody looked.
    pub(crate) bytes: u64,
    /// Messages since the lab began: whoever misses a state misses none of them. None where a client is at an end, and
    /// none of what is not understood.
    pub(crate) carried: Carried,
}

/// All directions between some places.
pub(crate) struct Links {
    directions: BTreeMap<(u64, u64), Direction>,
}

/// A direction as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    from: u64,
    to: u64,
    #[serde(flatten)]
    fault: Fault,
    /// With the bytes since the state before this.
    #[serde(flatten)]
    arrived: Arrived,
}

impl Links {
    /// Clean ones between all nodes, and between clients and each node.
    pub(crate) fn new(nodes: u64) -> Links {
        let places = CLIENTS..=nodes;
        let pairs = places.clone().flat_map(|from| places.clone().map(move |to| (from, to)));
        let directions = pairs.filter(|(from, to)| from != to).map(|pair| {
            (pair, Direction { fault: watch::Sender::default(), arrived: Mutex::default() })
        });
        Links { directions: directions.collect() }
    }

    /// Follows what a direction does.
    pub(crate) fn follow(&self, from: u64, to: u64) -> watch::Receiver<Fault> {
        self.directions[&(from, to)].fault.subscribe()
    }

    /// Changes a direction. There is none from a place to itself.
    pub(crate) fn change(&self, from: u64, to: u64, change: impl FnOnce(&mut Fault)) -> bool {
        let Some(direction) = self.directions.get(&(from, to)) else { return false };
        direction.fault.send_modify(change);
        true
    }

    /// Sets what all of them do.
    pub(crate) fn set_all(&self, fault: impl Fn(u64, u64) -> Fault) {
        for ((from, to), direction) in &self.directions {
            let fault = fault(*from, *to);
            direction.fault.send_if_modified(|now| std::mem::replace(now, fault) != fault);
        }
    }

    /// Makes all of them clean.
    pub(crate) fn heal(&self) {
        self.set_all(|_, _| Fault::default());
    }

    /// All directions between nodes that are cut.
    pub(crate) fn cut_between_nodes(&self) -> Vec<(u64, u64)> {
        let between =
            self.directions.iter().filter(|((from, to), _)| *from != CLIENTS && *to != CLIENTS);
        let cut = between.filter(|(_, direction)| direction.fault.borrow().cut);
        cut.map(|(pair, _)| *pair).collect()
    }

    /// Counts what arrived.
    pub(crate) fn arrived(&self, from: u64, to: u64, bytes: usize, carried: Carried) {
        let mut arrived = lock(&self.directions[&(from, to)].arrived);
        arrived.bytes += bytes as u64;
        arrived.carried += carried;
    }

    /// Takes the bytes that arrived since they were last taken, and says what messages have.
    pub(crate) fn take_arrived(&self) -> BTreeMap<(u64, u64), Arrived> {
        let each = self.directions.iter().map(|(pair, direction)| {
            let mut arrived = lock(&direction.arrived);
            let carried = arrived.carried;
            (*pair, std::mem::replace(&mut *arrived, Arrived { bytes: 0, carried }))
        });
        each.collect()
    }

    /// As the page is told.
    pub(crate) fn shown(&self, arrived: &BTreeMap<(u64, u64), Arrived>) -> Vec<Shown> {
        let each = self.directions.iter();
        each.map(|(pair, direction)| Shown {
            from: pair.0,
            to: pair.1,
            fault: *direction.fault.borrow(),
            arrived: arrived.get(pair).copied().unwrap_or_default(),
        })
        .collect()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_comes_late_and_what_is_not_is_not() {
        let clean = Fault::default();
        assert_eq!(clean.takes(|| 0), Duration::ZERO);
        let lossy = Fault { loss_percent: 50, delay_ms: 10, ..clean };
        assert_eq!(lossy.takes(|| 99), Duration::from_millis(10));
        let mut draws = [0, 0, 99].into_iter();
        assert_eq!(lossy.takes(|| draws.next().unwrap()), Duration::from_millis(10 + 200 + 400));
        assert_eq!(lossy.takes(|| 0), Duration::from_millis(10 + 200 + 400 + 800 + 1600));
    }

    #[test]
    fn all_are_set_at_once() {
        let links = Links::new(2);
        links.set_all(|from, to| Fault { cut: (from, to) == (2, CLIENTS), ..Fault::default() });
        let is_cut = |from, to| links.follow(from, to).borrow().cut;
        assert!(is_cut(2, CLIENTS) && !is_cut(CLIENTS, 2) && !is_cut(1, 2));
        links.set_all(|_, _| Fault::default());
        assert!(!is_cut(2, CLIENTS));
    }

    #[test]
    fn bytes_are_taken_and_messages_add_up() {
        let links = Links::new(2);
        let carried = Carried { votes: 1, heartbeats: 2, ..Carried::default() };
        for _ in 0..2 {
            links.arrived(1, 2, 100, carried);
            assert_eq!(links.take_arrived()[&(1, 2)].bytes, 100);
        }
        let shown = serde_json::to_value(links.shown(&links.take_arrived())).unwrap();
        let of = |from, to| {
            let mut each = shown.as_array().unwrap().iter();
            each.find(|link| link["from"] == from && link["to"] == to).unwrap().clone()
        };
        let (forth, back) = (of(1, 2), of(2, 1));
        assert_eq!((&forth["bytes"], &forth["carried"]["votes"]), (&0.into(), &2.into()));
        assert_eq!(
            (&forth["carried"]["heartbeats"], &back["carried"]["votes"]),
            (&4.into(), &0.into())
        );
    }

    #[test]
    fn a_direction_is_not_its_opposite() {
        let links = Links::new(2);
        assert!(links.change(1, 2, |fault| fault.cut = true));
        assert!(links.follow(1, 2).borrow().cut && !links.follow(2, 1).borrow().cut);
        assert!(!links.change(1, 1, |_| ()) && !links.change(1, 3, |_| ()));
        links.heal();
        assert!(!links.follow(1, 2).borrow().cut);
    }
}
