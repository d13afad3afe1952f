//! Callers who take their time, on a paused clock.

use std::io;

use tokio::{
    io::{AsyncWrite, DuplexStream},
    sync::mpsc,
    time::{Instant, sleep},
};

use super::*;

/// More than a connection buffers on its way.
const BIG: usize = 4 << 20;

/// Lets in who is sent to it.
struct Door(mpsc::Receiver<DuplexStream>);

#[async_trait]
impl Listener for Door {
    async fn accept(&mut self) -> io::Result<Connection> {
        match self.0.recv().await {
            Some(stream) => Ok(Connection::new(stream)),
            None => std::future::pending().await,
        }
    }

    fn local_address(&self) -> String {
        "a test".to_owned()
    }
}

struct Answers;

#[async_trait]
impl Pages for Answers {
    async fn page(self: Arc<Self>, asked: Asked) -> Page {
        match asked.path.as_str() {
            "/big" => Page::text(StatusCode::OK, "x".repeat(BIG)),
            "/never" => std::future::pending().await,
            _ => Page::text(StatusCode::OK, asked.body),
        }
    }
}

/// A port with so many places, and how to call there.
struct Opened {
    knock: mpsc::Sender<DuplexStream>,
    _stop: watch::Sender<bool>,
}

impl Opened {
    fn with_places(connections_max: usize) -> Opened {
        let (knock, door) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let gate = Gate {
            port: "test",
            listener: Box::new(Door(door)),
            tls: None,
            connections_max,
            share: ShareRule::NONE,
            audit: None,
        };
        tokio::spawn(serve(Arc::new(Answers), gate, stopped));
        Opened { knock, _stop: stop }
    }

    async fn call(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(4096);
        self.knock.send(theirs).await.expect("it is served");
        ours
    }
}

/// What comes until the connection is closed, and when that is.
async fn rest(mut stream: DuplexStream, since: Instant) -> (String, Duration) {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    (String::from_utf8(text).expect("text"), since.elapsed())
}

/// Sends a byte a second, for as long as they are taken.
async fn drip(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    for byte in bytes {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let port = Opened::with_places(1);
    for sends in ["", "GET /big HTT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let (mut stream, began) = (port.call().await, Instant::now());
        stream.write_all(sends.as_bytes()).await.unwrap();
        let (text, took) = rest(stream, began).await;
        assert!(!text.contains(" 200 "), "{sends:?}: {text}");
        assert_eq!(took.as_secs(), HEAD_TIME_MAX.as_secs(), "{sends:?}");
    }
    // Nor for one that comes byte by byte.
    let (stream, began) = (port.call().await, Instant::now());
    let (reads, mut writes) = tokio::io::split(stream);
    let dripping = tokio::spawn(async move { drip(&mut writes, &[b'x'; 60]).await });
    let mut text = Vec::new();
    let _ = { reads }.read_to_end(&mut text).await;
    assert_eq!(began.elapsed().as_secs(), HEAD_TIME_MAX.as_secs());
    dripping.abort();
}

#[tokio::test(start_paused = true)]
async fn nor_is_a_body() {
    let port = Opened::with_places(1);
    let (mut stream, began) = (port.call().await, Instant::now());
    let head = "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 60\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (reads, mut writes) = tokio::io::split(stream);
    let dripping = tokio::spawn(async move { drip(&mut writes, &[b'x'; 60]).await });
    let mut text = Vec::new();
    let _ = { reads }.read_to_end(&mut text).await;
    assert!(text.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&text));
    assert_eq!(began.elapsed().as_secs(), HEAD_TIME_MAX.as_secs());
    dripping.abort();
}

#[tokio::test(start_paused = true)]
async fn who_takes_no_answer_and_what_is_never_answered_end_in_time() {
    let port = Opened::with_places(2);
    let began = Instant::now();
    let mut takes_nothing = port.call().await;
    takes_nothing.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut waits = port.call().await;
    waits.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let (text, took) = rest(waits, began).await;
    assert_eq!((&*text, took.as_secs()), ("", CONNECTION_TIME_MAX.as_secs()));
    sleep(Duration::from_secs(1)).await;
    let (text, _) = rest(takes_nothing, began).await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.len() < BIG, "{}", text.len());
    // Both places are free again.
    for _ in 0..2 {
        let (mut stream, began) = (port.call().await, Instant::now());
        stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let (text, _) = rest(stream, began).await;
        assert!(text.starts_with("HTTP/1.1 200 ") && text.len() > BIG, "{}", text.len());
    }
}

#[tokio::test(start_paused = true)]
async fn one_connection_has_one_answer() {
    let port = Opened::with_places(1);
    let (mut stream, began) = (port.call().await, Instant::now());
    stream.write_all("GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20).as_bytes()).await.unwrap();
    let (text, took) = rest(stream, began).await;
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert_eq!(took, Duration::ZERO);
}
