//! Questions that only one node can read.

use bytes::Bytes;
use http::{Method, StatusCode};
use iris_core::backend::Operation;
use iris_crypto::certificate::{Expectation, Origin, Role};
use iris_crypto::seal::{
    AnswerEvent, AnswerOpener, Prompt, RecordKind, RecordReader, SealedRequest, Shape, Terms,
};
use iris_crypto::{SignedCertificate, VerifiedCertificate};
use iris_protocol::openai::ChatCompletionChunk;
use iris_protocol::rest::{Roster, SignedRoster};

use super::http1::{self, Body, Broken};
use super::{Caller, Chat, ReplyEnd, content, error_code};
use crate::simulation::clock::calendar;
use crate::simulation::host;

impl Caller {
    /// Seals `body` to a node of the roster that offers the model.
    pub(super) async fn seal(
        &self,
        chat: &Chat,
        body: Bytes,
    ) -> Result<(Bytes, AnswerOpener), ReplyEnd> {
        let certificate = self.choose(chat).await?;
        let prompt = Prompt { operation: Operation::Chat, stream: chat.stream, body };
        let terms = Terms { shape: Shape::Off, ..Terms::new(chat.model.clone(), calendar()) };
        let sealed = SealedRequest::seal(&certificate, terms, &prompt);
        let (request, opener) = sealed.map_err(malformed)?;
        Ok((request.wire().clone(), opener))
    }

    async fn choose(&self, chat: &Chat) -> Result<VerifiedCertificate, ReplyEnd> {
        let headers = [("authorization", format!("Bearer {}", self.key))];
        let asked = http1::send(Method::GET, "/roster", &headers, Bytes::new()).await;
        let Ok((head, mut incoming)) = asked else { return Err(ReplyEnd::Broken) };
        let Ok(text) = incoming.all().await else { return Err(ReplyEnd::Broken) };
        if head.status != StatusCode::OK {
            return Err(ReplyEnd::Refused(head.status.as_u16(), error_code(&text)));
        }
        let signed: SignedRoster = serde_json::from_slice(&text).map_err(malformed)?;
        let roster: Roster = serde_json::from_str(&signed.roster).map_err(malformed)?;
        let able = roster
            .nodes
            .iter()
            .filter(|node| node.models.iter().any(|offer| offer.name == chat.model));
        let able: Vec<_> = able.collect();
        // Whoever asks something else asks another node.
        let turn = chat.question.bytes().map(usize::from).sum::<usize>();
        let Some(node) = able.get(turn % able.len().max(1)) else {
            return Err(ReplyEnd::Refused(404, "no_node_listed".to_owned()));
        };
        let certificate =
            SignedCertificate::decode(node.certificate.as_bytes()).map_err(malformed)?;
        let origin = Origin::from(host::public_identity());
        let expected =
            Expectation { role: Role::Node, now: calendar(), min_serial: 0, origin: &origin };
        certificate.verify(&expected).map_err(malformed)
    }
}

/// Reads the records of an answer. It is complete when its receipt has come, too.
pub(super) async fn read(
    chat: &Chat,
    mut opener: AnswerOpener,
    incoming: &mut Body,
    text: &mut String,
) -> ReplyEnd {
    let mut reader = RecordReader::new();
    let mut reads = 0;
    loop {
        match incoming.next().await {
            Ok(Some(part)) => reader.push(&part),
            // An answer that is over has said so before.
            Ok(None) => return ReplyEnd::Malformed("the records end without an end".to_owned()),
            Err(Broken) => return ReplyEnd::Broken,
        }
        loop {
            let record = match reader.pop() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => return malformed(error),
            };
            if record.kind == RecordKind::Failure {
                return ReplyEnd::CutOff(error_code(&record.payload));
            }
            let events = match opener.handle_record(&record) {
                Ok(events) => events,
                Err(error) => return malformed(error),
            };
            for event in events {
                match event {
                    AnswerEvent::Text(more) => text.push_str(&more),
                    AnswerEvent::Json(json) => {
                        match serde_json::from_slice::<ChatCompletionChunk>(&json) {
                            Ok(chunk) => text.push_str(chunk.text()),
                            Err(error) => return malformed(error),
                        }
                    }
                    AnswerEvent::Whole(whole) => {
                        text.push_str(&content(&whole).unwrap_or_default());
                    }
                    AnswerEvent::Failed(_) => return ReplyEnd::CutOff("failed".to_owned()),
                    AnswerEvent::Receipt(_) => return ReplyEnd::Complete,
                    AnswerEvent::Opened | AnswerEvent::Finished(_) => {}
                }
            }
        }
        reads += 1;
        if chat.leave_after.is_some_and(|limit| reads >= limit) {
            return ReplyEnd::Left;
        }
        if !chat.pace.is_zero() {
            tokio::time::sleep(chat.pace).await;
        }
    }
}

fn malformed(error: impl std::fmt::Display) -> ReplyEnd {
    ReplyEnd::Malformed(error.to_string())
}
