//! A stream without a connection: what is sent, and what callers are told at its end and at deadlines.

use super::{pack::PACK_BYTES_MAX, *};

const LONG: Duration = Duration::from_secs(60);

/// A stream's sending side, and its queue.
struct Sending {
    queue: mpsc::Sender<Queued>,
    pending: Arc<Pending>,
}

impl Sending {
    fn new() -> (Self, Packer) {
        let (queue, queued) = mpsc::channel(QUEUE_CALLS_MAX);
        let pending = Arc::new(Pending::default());
        (Self { queue, pending: pending.clone() }, Packer::new(queued, pending))
    }

    fn call(&self, id: u64, bytes: usize, within: Duration) -> oneshot::Receiver<Reply> {
        let answered = self.pending.register(id, Instant::now() + within).unwrap();
        let call = v1::Call { id, ..Default::default() };
        self.queue.try_send(Queued { call, bytes }).unwrap();
        answered
    }
}

impl Packer {
    fn take(&mut self) -> Option<Vec<u64>> {
        while let Ok(queued) = self.queued.try_recv() {
            self.ready.push(queued);
        }
        Some(self.pack()?.iter().map(|call| call.id).collect())
    }
}

fn was_sent(mut answered: oneshot::Receiver<Reply>) -> bool {
    match answered.try_recv() {
        Ok(Reply::Broken { sent, .. }) => sent,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_in_a_pack_was_sent_even_if_nobody_says_goodbye() {
    let (sending, mut packer) = Sending::new();
    let mut first = sending.call(1, 10, LONG);
    assert_eq!(packer.take(), Some(vec![1]));
    let second = sending.call(2, 10, LONG);
    drop(packer);
    assert!(!was_sent(second));
    assert!(first.try_recv().is_err(), "its answer may still come");
    drop(Closing(sending.pending));
    assert!(was_sent(first));
}

#[tokio::test]
async fn an_ended_stream_sends_nothing_more() {
    let (sending, mut packer) = Sending::new();
    let first = sending.call(1, 10, LONG);
    assert_eq!(packer.take(), Some(vec![1]));
    let second = sending.call(2, 10, LONG);
    sending.pending.close(&local(Code::Unavailable, "ended"));
    assert!(was_sent(first) && !was_sent(second));
    assert_eq!(packer.take(), None);
    assert!(sending.queue.is_closed());
    assert!(sending.pending.register(3, Instant::now() + LONG).is_none());
}

#[tokio::test]
async fn who_has_left_is_not_sent() {
    let (sending, mut packer) = Sending::new();
    let answered = sending.call(1, 10, LONG);
    drop(Waiting { pending: sending.pending.clone(), id: 1, answered });
    assert_eq!(packer.take(), Some(vec![]));
    assert!(sending.pending.lock().waiters.is_empty());
}

#[tokio::test]
async fn packs_are_bounded() {
    let (sending, mut packer) = Sending::new();
    let _answers: Vec<_> = [(1, 2 * PACK_BYTES_MAX), (2, PACK_BYTES_MAX / 2), (3, PACK_BYTES_MAX)]
        .map(|(id, bytes)| sending.call(id, bytes, LONG))
        .into();
    for id in 1..=3 {
        assert_eq!(packer.take(), Some(vec![id]));
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_from_idleness_and_from_slowness() {
    let (sending, mut packer) = Sending::new();
    let answers = Answers(sending.pending.clone());
    let second = Duration::from_secs(1);
    // Nobody asks for anything.
    assert!(timeout_at(Instant::now() + LONG, answers.fall_silent(second)).await.is_err());
    let calls = [1, 2, 3].map(|id| sending.call(id, 10, LONG));
    assert!(timeout_at(Instant::now() + LONG / 2, answers.fall_silent(second)).await.is_err());
    assert_eq!(packer.take(), Some(vec![1, 2, 3]));
    let begun = Instant::now();
    // An answer comes in time, and again.
    for id in [1, 2] {
        tokio::time::sleep(Duration::from_millis(900)).await;
        sending.pending.complete(vec![v1::Answer { id, response: None }]);
    }
    assert!(answers.fall_silent(second).await);
    assert_eq!(begun.elapsed(), Duration::from_millis(2800));
    answers.give_up("another one leads");
    assert!(!answers.fall_silent(second).await);
    let [_, _, third] = calls;
    assert!(was_sent(third));
}

#[tokio::test(start_paused = true)]
async fn each_deadline_is_kept_whatever_comes_before_or_after() {
    let (sending, mut packer) = Sending::new();
    tokio::spawn(sweep(sending.pending.clone()));
    let started = Instant::now();
    let late = sending.call(1, 10, Duration::from_millis(300));
    assert_eq!(packer.take(), Some(vec![1]));
    tokio::time::sleep(Duration::from_millis(1)).await;
    // Earlier than what the sweep waits for by now; never sent.
    let early = sending.call(2, 10, Duration::from_millis(100));
    assert!(matches!(early.await, Ok(Reply::Broken { sent: false, .. })));
    assert_eq!(started.elapsed().as_millis(), 101);
    assert_eq!(packer.take(), Some(vec![]));
    assert!(matches!(late.await, Ok(Reply::Broken { sent: true, .. })));
    assert_eq!(started.elapsed().as_millis(), 300);
    // After a time without calls, too.
    tokio::time::sleep(LONG).await;
    assert_eq!(sending.pending.lock().sweep_at, None);
    let started = Instant::now();
    let last = sending.call(3, 10, Duration::from_millis(10));
    assert!(matches!(last.await, Ok(Reply::Broken { sent: false, .. })));
    assert_eq!(started.elapsed().as_millis(), 10);
}
