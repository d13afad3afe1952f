//! A request whose authority is none: gRPC's C core sends the whole list of addresses that it was given.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::cluster::Cluster;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// Asks twice for the status on one connection, and gives the kinds of the frames that begin the answers.
async fn answers_begin_with(address: &str, authority: &str, name_by_index: bool) -> [u8; 2] {
    let name = if name_by_index { vec![0x41] } else { [vec![0x40], text(":authority")].concat() };
    let first = [
        // POST, http, and the path by its name's index.
        vec![0x83, 0x86, 0x44],
        text("/tally.v1.Cluster/Status"),
        name,
        text(authority),
        [vec![0x40], text("content-type"), text("application/grpc")].concat(),
        [vec![0x40], text("te"), text("trailers")].concat(),
    ]
    .concat();
    // The second time each is the entry of the table that the first has made.
    let second = [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];
    let message = [0, 0, 0, 0, 2, 0x08, 1];
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &first),
        frame(0, 1, 1, &message),
        frame(1, 4, 3, &second),
        frame(0, 1, 3, &message),
    ]
    .concat();
    let mut socket = TcpStream::connect(address).await.expect("the port is open");
    socket.write_all(&sent).await.expect("it is sent");
    let mut begun = [None, None];
    while let Some(at) = begun.iter().position(Option::is_none) {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap_or_else(|error| panic!("answer {at}: {error}"));
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        socket.read_exact(&mut payload).await.expect("a whole frame");
        if let stream @ (1 | 3) = head[8]
            && matches!(head[3], 1 | 3)
        {
            begun[usize::from(stream / 2)].get_or_insert(head[3]);
        }
    }
    begun.map(Option::unwrap)
}

const HEADERS: u8 = 1;

#[tokio::test]
async fn a_list_of_addresses_or_a_path_as_the_authority_is_in_nobodys_way() {
    let cluster = Cluster::start(1).await;
    let address = cluster.client_address(1);
    for authority in ["127.0.0.1:7401,127.0.0.1:7402", "[::1]:1,[::1]:2", "/run/tally", "a:1"] {
        for name_by_index in [true, false] {
            let begun = answers_begin_with(&address, authority, name_by_index).await;
            assert_eq!(begun, [HEADERS; 2], "{authority}");
        }
    }
}
