//! TLS from PEM files, which are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::settings::TlsFiles;

/// Why TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of the right kind.
    #[error("{path} cannot be used for TLS: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Reads a server's TLS files again.
///
/// The server does so by itself within a minute after they change; this is for whoever cannot
/// wait, such as a handler of SIGHUP.
#[derive(Clone, Debug)]
pub struct TlsReloader {
    tls: Arc<Tls>,
}

impl TlsReloader {
    /// Uses the files as they are now for new connections. On an error the server goes on with
    /// what it had.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.tls.reload()
    }
}

/// The TLS side of a server.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
    stamps: Mutex<Stamps>,
}

/// When the files were last written.
type Stamps = [Option<SystemTime>; 2];

impl Tls {
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = stamps(&files);
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, current, stamps: Mutex::new(stamps) })
    }

    /// Returns what opens the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }

    /// Reads the files again if they were written since the last time.
    pub(super) fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let now = stamps(&self.files);
        let changed = *self.stamps.lock().unwrap_or_else(PoisonError::into_inner) != now;
        if changed {
            self.reload()?;
        }
        Ok(changed)
    }

    pub(super) fn reloader(self: &Arc<Self>) -> TlsReloader {
        TlsReloader { tls: Arc::clone(self) }
    }

    fn reload(&self) -> Result<(), TlsError> {
        // Taken before reading: a file written meanwhile is found changed the next time.
        let now = stamps(&self.files);
        let config = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        *self.stamps.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    let stamp = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    [stamp(&files.certificates), stamp(&files.key)]
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let at = |path: &PathBuf| {
        let path = path.clone();
        move |cause| TlsError::File { path, cause }
    };
    let certificates = CertificateDer::pem_file_iter(&files.certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(at(&files.certificates))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(at(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
