use std::path::Path;

use iris_coordinator::http::TlsFiles;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

// Self-signed for `localhost`, for these tests alone.
const FIRST: [&str; 2] = [include_str!("tls/first.pem"), include_str!("tls/first.key.pem")];
const SECOND: [&str; 2] = [include_str!("tls/second.pem"), include_str!("tls/second.key.pem")];

fn write(folder: &Path, [certificates, key]: [&str; 2]) -> TlsFiles {
    let files = TlsFiles { certificates: folder.join("chain.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.certificates, certificates).unwrap();
    std::fs::write(&files.key, key).unwrap();
    files
}

/// Asks for the health of a server, which must show `certificate`.
async fn ask(server: SocketAddr, certificate: &str) -> Option<Reply> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    stream.write_all(request("GET", "/healthz", &[], "").as_bytes()).await.unwrap();
    Some(client::read(stream).await)
}

#[tokio::test]
async fn renewed_certificate_is_used_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServerSettings::default().with_tls(write(folder.path(), FIRST));
    let server = Server::bind(coordinator().await, settings).await.unwrap();
    let (address, reloader) = (server.local_addr().unwrap(), server.tls_reloader().unwrap());
    tokio::spawn(server.run(std::future::pending()));
    assert_eq!(ask(address, FIRST[0]).await.unwrap().status, 200);
    assert!(ask(address, SECOND[0]).await.is_none());

    // Files that do not fit together change nothing.
    write(folder.path(), [SECOND[0], FIRST[1]]);
    assert!(reloader.reload().is_err());
    assert_eq!(ask(address, FIRST[0]).await.unwrap().status, 200);

    write(folder.path(), SECOND);
    reloader.reload().unwrap();
    assert_eq!(ask(address, SECOND[0]).await.unwrap().status, 200);
    assert!(ask(address, FIRST[0]).await.is_none());
}

#[tokio::test]
async fn plain_http_at_a_tls_port_gets_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ServerSettings::default().with_tls(write(folder.path(), FIRST));
    let server = Server::bind(coordinator().await, settings).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.run(std::future::pending()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request("GET", "/healthz", &[], "").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
}
