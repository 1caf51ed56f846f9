use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt};
use iris_core::plan::Progress;
use reqwest::Response;
use tokio::time::timeout;

use crate::error::{ClientError, Cut, Partial, causes};
use crate::head::Head;
use crate::sse::SseParser;

/// What happens to a task, as it happens; from [`Tasks::follow`](crate::Tasks::follow).
///
/// Begins with what has happened already. The last item is [`Progress::Ended`]; a stream that ends
/// without it has broken off, which is its last item, and the task goes on all the same. What a
/// later version tells beyond what is known here is passed over.
pub struct TaskEvents(BoxStream<'static, Result<Progress, ClientError>>);

impl TaskEvents {
    pub(crate) fn new(response: Response, idle: Duration) -> Self {
        let head = Head::read(response.headers());
        let reader = Reader { response, idle, head, parser: SseParser::new() };
        let events = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(ended @ Progress::Ended(_)) => Some((Ok(ended), None)),
                Ok(progress) => Some((Ok(progress), Some(reader))),
                Err(cause) => {
                    let partial = Partial { text: String::new(), cause, head: reader.head };
                    Some((Err(ClientError::Truncated(Box::new(partial))), None))
                }
            }
        });
        Self(events.boxed())
    }
}

impl Stream for TaskEvents {
    type Item = Result<Progress, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for TaskEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskEvents").finish_non_exhaustive()
    }
}

struct Reader {
    response: Response,
    idle: Duration,
    head: Head,
    parser: SseParser,
}

impl Reader {
    async fn next(&mut self) -> Result<Progress, Cut> {
        loop {
            while let Some(event) = self.parser.pop() {
                if let Ok(progress) = serde_json::from_str(&event) {
                    return Ok(progress);
                }
            }
            let piece = timeout(self.idle, self.response.chunk())
                .await
                .map_err(|_| Cut::Silent(self.idle))?
                .map_err(|error| Cut::Connection(causes(&error)))?;
            self.parser.push(&piece.ok_or(Cut::Ended)?).map_err(|_| Cut::TooLarge)?;
        }
    }
}
