use iris_crypto::PublicIdentity;
use iris_crypto::log::{LogError, MAX_ENTRY_LEN, SignedCheckpoint};
use iris_protocol::rest::LogEntries;
use reqwest::header::HeaderMap;

use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::trust::{TrustError, Verdict};

/// Operations on the coordinator's public log, from [`Client::log`].
///
/// The log holds every roster and certificate that the coordinator publishes, and can only grow.
/// That it does is checked before each sealed request; here is what people and monitors need.
#[derive(Clone, Copy, Debug)]
pub struct Log<'a> {
    client: &'a Client,
}

impl<'a> Log<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Returns the log's present checkpoint, after checking that it extends the one that is
    /// remembered, which it then replaces.
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint, ClientError> {
        let (text, _) = self.text("log/checkpoint").await?;
        self.compare(&text).await?;
        Ok(SignedCheckpoint::decode(&text).map_err(TrustError::from)?)
    }

    /// Checks that a checkpoint, such as somebody else was shown, is of the log that is
    /// remembered. If it is not, the error holds the evidence.
    pub async fn compare(&self, checkpoint: &str) -> Result<(), ClientError> {
        let trust = &self.client.sealed().trust;
        let mut proof = None;
        loop {
            let verdict =
                trust.with(|trust| trust.handle_checkpoint(checkpoint, proof.as_ref()))?;
            let Some(Verdict::ProofNeeded { from, to }) = verdict else { return Ok(()) };
            proof = Some(self.client.growth(from, to, checkpoint).await?);
        }
    }

    /// Returns who signs the log, once that is known.
    pub fn coordinator(&self) -> Result<Option<PublicIdentity>, TrustError> {
        self.client.sealed().trust.with(|trust| Ok(trust.coordinator().copied()))
    }

    /// Returns up to `count` entries from `start` on, as the coordinator sends them; whether they
    /// are those of the log shows when its root is computed of all of them.
    pub async fn entries(&self, start: u64, count: u64) -> Result<LogEntries, ClientError> {
        let call = Call::get(format!("log/entries?start={start}&count={count}"));
        let (entries, _) = self.client.call::<LogEntries>(call).await.map_err(without_log)?;
        let fits = entries.entries.iter().all(|entry| entry.as_bytes().len() <= MAX_ENTRY_LEN);
        if entries.start == start && !entries.entries.is_empty() && fits {
            Ok(entries)
        } else {
            Err(TrustError::Log(LogError::Malformed("other entries than were asked for")).into())
        }
    }

    async fn text(&self, path: &str) -> Result<(String, HeaderMap), ClientError> {
        let (body, headers) = self.client.bytes(Call::get(path)).await.map_err(without_log)?;
        let text = String::from_utf8(body)
            .map_err(|_| TrustError::Log(LogError::Malformed("a checkpoint is a text")))?;
        Ok((text, headers))
    }
}

fn without_log(error: ClientError) -> ClientError {
    error.without("keeps no public log")
}
