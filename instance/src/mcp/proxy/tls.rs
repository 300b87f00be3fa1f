//! TLS to a server at an `https://` URL.
//!
//! The certificates of the system are trusted (`SSL_CERT_FILE` and `SSL_CERT_DIR` override them). A server that does
//! not prove that it has the name in the URL receives nothing, not even a header, and no setting changes that.

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

/// Opens TLS connections to one host.
pub(super) struct Tls {
    name: ServerName<'static>,
    /// Created on first use: the system's certificates take some milliseconds and half a megabyte.
    connector: OnceCell<TlsConnector>,
}

impl Tls {
    /// For this host; `None` if no certificate could name it.
    pub(super) fn new(host: &str) -> Option<Self> {
        Some(Self { name: ServerName::try_from(host.to_owned()).ok()?, connector: OnceCell::new() })
    }

    /// Verifies the server and encrypts the connection.
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
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| format!("none of {unusable} can be used"), ToString::to_string);
        return Err(io::Error::other(format!("this system has no certificates to verify servers with: {why}")));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
