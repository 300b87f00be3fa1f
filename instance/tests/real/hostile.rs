//! Strangers on an instance's port that abuse HTTP/2, in frames made by hand (RFC 9113).

use crate::lab::hub::Hub;
use crate::lab::{InstanceLab, until};
use linchpin_shared::protocol::path;
use linchpin_shared::registry::record::Record;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// More strangers than an instance serves connections (`MAX_CONNECTIONS` of its server).
const CROWD: usize = 100;
/// What memory an attack may cost for good, in KiB.
const MOST_MEMORY: u64 = 32 << 10;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /` of `localhost`, as HPACK: three fields of the static table and one literal.
const REQUEST: &[u8] = b"\x82\x86\x84\x41\x09localhost";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection with the preface and the settings said.
async fn stranger(record: &Record) -> TcpStream {
    let mut stream = TcpStream::connect(record.address().unwrap()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Sends what `next` makes until the instance ends the connection. It reads nothing while it sends.
async fn until_cut_off(mut stream: TcpStream, most: u32, next: impl Fn(u32) -> Vec<u8>) {
    for number in 0..most {
        // One that is not read any more is held up, and then cut off.
        match timeout(Duration::from_secs(15), stream.write_all(&next(number))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the instance took it all, and goes on");
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Fault 58: the hub gets in beside a crowd that only waits, and those who proved themselves stay.
#[tokio::test]
async fn idle_strangers_do_not_block_the_hub() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1000"]).await;
    let first = Hub::connect(&record).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(stranger(&record).await);
    }
    let second = Hub::connect(&record).await;
    assert_eq!(second.vitals().await.generation, record.generation);
    assert_eq!(first.vitals().await.generation, record.generation, "it has proved itself, so it stays");
    let mut over = 0;
    for stream in &mut crowd {
        let mut rest = Vec::new();
        over += usize::from(timeout(Duration::from_millis(1), stream.read_to_end(&mut rest)).await.is_ok());
    }
    assert!((1..CROWD).contains(&over), "{over} of {CROWD} strangers gave way");
    agent.stop().await;
}

/// Fault 60: rapid reset, CONTINUATION flood, PING flood, and a head without end.
#[tokio::test]
async fn frame_flood_ends_only_its_own_connection() {
    let lab = InstanceLab::new();
    let (agent, record) = lab.run("shop", &[], &["sleep", "1000"]).await;
    let hub = Hub::connect(&record).await;
    let before = memory_kib(agent.pid());
    let odd = |number: u32| number * 2 + 1;
    until_cut_off(stranger(&record).await, 100_000, |number| {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, odd(number), REQUEST);
        [head, frame(RST_STREAM, 0, odd(number), &8_u32.to_be_bytes())].concat()
    })
    .await;
    until_cut_off(stranger(&record).await, 10_000, |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, REQUEST),
        _ => frame(CONTINUATION, 0, 1, &[b"\x00\x01x\x7f".as_slice(), &[b'y'; 127]].concat().repeat(100)),
    })
    .await;
    until_cut_off(stranger(&record).await, 1_000_000, |_| frame(PING, 0, 0, &[0; 8])).await;
    until_cut_off(stranger(&record).await, 10, |_| frame(HEADERS, END_HEADERS, 2, &[0xff; 100])).await;
    assert_eq!(hub.vitals().await.generation, record.generation, "the hub's connection is untouched");
    let stray = Hub::stranger(&record).await;
    assert_eq!(stray.get(path::VITALS).await.problem().0, 403, "and others may come");
    let mut grown = 0;
    until("the memory is given back", async || {
        grown = memory_kib(agent.pid()).saturating_sub(before);
        (grown < MOST_MEMORY).then_some(())
    })
    .await;
    agent.stop().await;
}
