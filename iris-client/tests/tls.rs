//! Encrypted connections, with a certificate of an authority made for this test.

use std::sync::Arc;

use iris_client::{Client, ClientError};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const AUTHORITY: &[u8] = include_bytes!("data/authority.pem");
const STRANGER: &[u8] = include_bytes!("data/stranger.pem");

const HEALTHY: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 15\r\nconnection: close\r\n\r\n{\"status\":\"ok\"}";

/// Starts a server whose certificate for 127.0.0.1 is signed by the authority.
async fn start() -> String {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("data/server.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("data/server.key"));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has current protocols")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.expect("the file is a certificate")],
                key.expect("the file is a key"),
            )
            .expect("key and certificate belong together");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("https://{}", listener.local_addr().expect("the listener is bound"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(socket).await else {
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("the request has an end"));
            }
            stream.write_all(HEALTHY.as_bytes()).await.expect("the client listens");
            stream.shutdown().await.expect("the client listens");
        }
    });
    url
}

#[tokio::test]
async fn only_the_given_authority_is_trusted() {
    let url = start().await;
    let trusting = Client::builder(&url).with_api_key("k").with_authorities(AUTHORITY);
    assert_eq!(trusting.build().unwrap().health().await.unwrap().status, "ok");

    let distrusting = Client::builder(&url).with_authorities(STRANGER).build().unwrap();
    let refused = distrusting.health().await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Unreachable(why) if why.contains("certificate")),
        "{refused:?}"
    );
}
