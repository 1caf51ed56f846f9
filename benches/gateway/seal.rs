//! The caller's side of sealed requests.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use iris_core::Timestamp;
use iris_core::backend::Operation;
use iris_crypto::certificate::{Expectation, Origin, Role};
use iris_crypto::seal::{
    AnswerEvent, AnswerOpener, Prompt, RecordReader, SealedRequest, Shape, Terms,
};
use iris_crypto::{SignedCertificate, VerifiedCertificate};
use iris_protocol::rest::{Roster, SignedRoster};

use crate::Failure;
use crate::request::{Connection, Question, Target, words_in};

/// Returns the certificate of the network's only node. Whether the roster is the one that
/// everybody gets is not looked at here, since that is no part of a request's cost.
pub(crate) async fn certificate(caller: &Target) -> Result<VerifiedCertificate, Failure> {
    let answer = Connection::open(caller).await?.get("/roster").await?;
    let signed: SignedRoster = serde_json::from_str(&answer)?;
    let roster: Roster = serde_json::from_str(&signed.roster)?;
    let node = roster.nodes.first().ok_or("the roster is empty")?;
    let certificate = SignedCertificate::decode(node.certificate.as_bytes())?;
    let origin: Origin = certificate.unverified_claims().origin.clone();
    let expected = Expectation { role: Role::Node, now: now()?, min_serial: 0, origin: &origin };
    Ok(certificate.verify(&expected)?)
}

/// An answer that is opened as it comes.
pub(crate) struct SealedAnswer {
    opener: AnswerOpener,
    reader: RecordReader,
}

impl SealedAnswer {
    /// Seals a question, without a shape: those of others cost by the clock.
    pub(crate) fn ask(
        node: &VerifiedCertificate,
        question: &Question,
    ) -> Result<(Bytes, Self), Failure> {
        let prompt = Prompt {
            operation: Operation::Chat,
            stream: question.stream,
            body: question.body.clone(),
        };
        let terms = Terms { shape: Shape::Off, ..Terms::new(question.model.parse()?, now()?) };
        let (request, opener) = SealedRequest::seal(node, terms, &prompt)?;
        Ok((request.wire().clone(), Self { opener, reader: RecordReader::new() }))
    }

    /// Opens what has arrived and returns how many words were in it.
    pub(crate) fn words(&mut self, data: &[u8]) -> Result<u32, Failure> {
        let mut words = 0;
        self.reader.push(data);
        while let Some(record) = self.reader.pop()? {
            for event in self.opener.handle_record(&record)? {
                words += match event {
                    AnswerEvent::Text(text) => words_in(text.as_bytes()),
                    AnswerEvent::Whole(json) => words_in(&json),
                    _ => 0,
                };
            }
        }
        Ok(words)
    }

    /// Checks that the answer was complete, its receipt included.
    pub(crate) fn close(self) -> Result<(), Failure> {
        Ok(self.opener.close()?)
    }
}

fn now() -> Result<Timestamp, Failure> {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    Ok(Timestamp::from_millis(u64::try_from(millis)?))
}
