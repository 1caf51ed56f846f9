use bytes::Bytes;
use http::{Method, Request, response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use turmoil::net::TcpStream;

use crate::simulation::{COORDINATOR, PORT};

/// The connection broke before the answer was whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken;

/// The body of an answer; dropping it closes the connection.
pub(super) struct Body {
    incoming: Incoming,
    _connection: Connection,
}

/// The task behind a connection, which ends with it.
struct Connection(JoinHandle<()>);

/// Sends a request on a connection of its own.
pub(super) async fn send(
    method: Method,
    path: &str,
    headers: &[(&'static str, String)],
    body: Bytes,
) -> Result<(response::Parts, Body), Broken> {
    let stream = TcpStream::connect((COORDINATOR, PORT)).await.map_err(|_| Broken)?;
    let opened = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|_| Broken)?;
    let connection = Connection(tokio::spawn(async move {
        // The body tells of a connection that breaks.
        let _ = connection.await;
    }));
    let mut request = Request::builder().method(method).uri(path).header("host", COORDINATOR);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(body)).map_err(|_| Broken)?;
    let response = sender.send_request(request).await.map_err(|_| Broken)?;
    let (head, incoming) = response.into_parts();
    Ok((head, Body { incoming, _connection: connection }))
}

impl Body {
    /// Returns the next part; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.incoming.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(Broken),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Returns all that is left.
    pub(super) async fn all(&mut self) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        while let Some(part) = self.next().await? {
            all.extend_from_slice(&part);
        }
        Ok(all)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}
