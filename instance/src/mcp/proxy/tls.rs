//! TLS to a server that is reached by `https`.
//!
//! Owns [`Tls`]: which certificates are believed (those of the system; `SSL_CERT_FILE` and `SSL_CERT_DIR` count) and the
//! handshake. Invariant: who does not prove the name in the URL gets nothing, not even a header.
//! Never: can be told to look away.

use rustls_native_certs::load_native_certs;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// How long a handshake may take: two or three round trips to anywhere.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// The way to one name.
pub(super) struct Tls {
    name: ServerName<'static>,
    /// Made when it is needed first: the system's certificates take some milliseconds and half a megabyte.
    connector: OnceCell<TlsConnector>,
}

impl Tls {
    /// For this host; `None` if it is no name that a certificate could have.
    pub(super) fn new(host: &str) -> Option<Self> {
        Some(Self { name: ServerName::try_from(host.to_owned()).ok()?, connector: OnceCell::new() })
    }

    /// Proves over a connection who is there.
    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let connector = self.connector.get_or_try_init(connector).await?;
        timeout(HANDSHAKE_WITHIN, connector.connect(self.name.clone(), stream)).await?
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

async fn connector() -> io::Result<TlsConnector> {
    let found = tokio::task::spawn_blocking(load_native_certs).await.map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    let (_, useless) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| format!("{useless} of no use"), ToString::to_string);
        return Err(io::Error::other(format!("this system has no certificates to check others with: {why}")));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
