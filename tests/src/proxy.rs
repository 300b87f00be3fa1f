//! A TCP proxy between hub and instance that behaves like the worst networks and peers.
//!
//! Its [`Way`] applies to the connections that are open and to new ones. It forwards bytes unchanged and in order and
//! does not look into them.

use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How a proxy treats its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Forwards in both directions.
    Forward,
    /// Bytes vanish in both directions; connections stay open, and new ones are accepted and never answered.
    BlackHole,
    /// Only what the instance sends vanishes.
    HalfOpen,
    /// What the instance sends arrives one byte at a time, with this pause after each byte.
    Trickle(Duration),
    /// Every connection is reset.
    Reset,
    /// Every connection is closed.
    Close,
}

/// A proxy, which runs until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    accepted: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Listens on any port of 127.0.0.1 and forwards to `upstream`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, accepted) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
        let (way, _) = watch::channel(Way::Forward);
        let accepting = tokio::spawn(accept(listener, upstream, way.clone(), Arc::clone(&accepted))).abort_handle();
        Ok(Self { address, way, accepted, accepting })
    }

    /// The address at which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Treats its connections in this way from now on.
    pub fn go(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, way: watch::Sender<Way>, accepted: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(connection(stream, upstream, way.subscribe()));
    }
}

async fn connection(down: TcpStream, upstream: SocketAddr, way: watch::Receiver<Way>) {
    let mut ends = way.clone();
    let end = ends.wait_for(|way| matches!(way, Way::Reset | Way::Close));
    let linger = down.set_nodelay(true).is_ok().then(|| socket(&down)).flatten();
    let forward = async {
        let up = TcpStream::connect(upstream).await?;
        up.set_nodelay(true)?;
        let ((down_read, down_write), (up_read, up_write)) = (down.into_split(), up.into_split());
        tokio::select! {
            done = pump(down_read, up_write, way.clone(), false) => done,
            done = pump(up_read, down_write, way, true) => done,
        }
    };
    tokio::pin!(forward);
    tokio::select! {
        _ = &mut forward => {}
        way = end => {
            if let (Ok(Way::Reset), Some(socket)) = (way.map(|way| *way), linger) {
                let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
            }
        }
    }
}

/// A second descriptor of the socket, for an option that is set after the stream was split.
fn socket(stream: &TcpStream) -> Option<rustix::fd::OwnedFd> {
    rustix::io::dup(stream).ok()
}

/// Moves bytes from one side to the other, in the current way.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: watch::Receiver<Way>,
    from_instance: bool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        let now = *way.borrow();
        match now {
            Way::BlackHole => {}
            Way::HalfOpen if from_instance => {}
            Way::Trickle(_) if from_instance => trickle(bytes, &mut to, &way).await?,
            Way::Forward | Way::HalfOpen | Way::Trickle(_) | Way::Reset | Way::Close => to.write_all(bytes).await?,
        }
    }
}

/// Sends byte by byte until the way changes.
async fn trickle(bytes: &[u8], to: &mut OwnedWriteHalf, way: &watch::Receiver<Way>) -> std::io::Result<()> {
    for byte in bytes {
        let now = *way.borrow();
        if let Way::Trickle(pause) = now {
            tokio::time::sleep(pause).await;
        }
        to.write_all(&[*byte]).await?;
    }
    Ok(())
}
