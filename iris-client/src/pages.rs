//! Lists that come in parts.

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;

use crate::client::{Call, Client};
use crate::error::ClientError;

/// How many entries are asked for at a time.
const PAGE: &str = "200";

/// A part of a list.
pub(crate) trait Page: DeserializeOwned + Send + 'static {
    type Entry: Send + 'static;

    /// Returns the entries, and what to ask for to read on.
    fn split(self) -> (Vec<Self::Entry>, Option<String>);
}

/// Returns a list's entries, asking for the next part when it is needed.
pub(crate) fn entries<P: Page>(
    client: &Client,
    path: &'static str,
) -> BoxStream<'static, Result<P::Entry, ClientError>> {
    let client = client.clone();
    let parts = stream::try_unfold(Place::Start, move |place| {
        let client = client.clone();
        async move {
            let call = Call::get(path).with_query("limit", PAGE);
            let (call, before) = match place {
                Place::Start => (call, None),
                Place::After(cursor) => (call.with_query("after", &cursor), Some(cursor)),
                Place::End => return Ok(None),
            };
            let (entries, next) = client.call::<P>(call).await?.0.split();
            let place = match next {
                // Whoever asks for the same again would never come to an end.
                Some(next) if Some(&next) == before.as_ref() => {
                    let reason = "a list leads back to where it was".to_owned();
                    return Err(ClientError::Malformed { reason, request_id: None });
                }
                Some(next) => Place::After(next),
                None => Place::End,
            };
            Ok(Some((stream::iter(entries.into_iter().map(Ok)), place)))
        }
    });
    parts.try_flatten().boxed()
}

enum Place {
    Start,
    After(String),
    End,
}
