//! An MCP server that listens at a URL of its own: requests pass through, over HTTP/1.1.

mod endpoint;
mod pool;
#[cfg(feature = "tls")]
mod tls;
mod url;

#[cfg(not(feature = "tls"))]
use no_tls as tls;

pub(crate) use endpoint::ProxyEndpoint;
pub(crate) use url::ServerUrl;

/// Stands in for `tls` in builds without that feature: no host can be reached over TLS.
#[cfg(not(feature = "tls"))]
mod no_tls {
    use std::io;
    use tokio::net::TcpStream;

    #[derive(Debug)]
    pub(super) enum Tls {}

    impl Tls {
        pub(super) const fn new(_host: &str) -> Option<Self> {
            None
        }

        pub(super) async fn handshake(&self, _stream: TcpStream) -> io::Result<TcpStream> {
            match *self {}
        }
    }
}
