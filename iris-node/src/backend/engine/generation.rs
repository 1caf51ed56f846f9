//! One answer, from the body to the last chunk.

use std::time::{Duration, Instant, SystemTime};

use iris_core::backend::{BackendError, GenerateRequest, Operation, Usage};
use iris_core::model::TokenRate;

use super::beginning::Beginning;
use super::constraint::Constraint;
use super::embedding;
use super::kept::Kept;
use super::likelihood::Likelihoods;
use super::logprobs::TokenList;
use super::model::Model;
use super::network::{Memory, Network, Wanted};
use super::outgoing::{Gone, Outgoing};
use super::passes::Passes;
use super::request::{Prompt, Request, refused};
use super::sampler::Sampler;
use super::scoring::Scoring;
use super::stop::Outlet;
use super::writer::{End, Writer};

/// Fewer tokens than this say nothing about speed.
const MEASURED_TOKENS: u32 = 8;

/// Why a generation ended without an answer.
pub(super) enum Abort {
    Gone,
    Error(BackendError),
}

impl From<Gone> for Abort {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<BackendError> for Abort {
    fn from(error: BackendError) -> Self {
        Self::Error(error)
    }
}

/// What all generations of one engine share.
pub(super) struct Shared<N: Network> {
    pub(super) passes: Passes<N>,
    pub(super) kept: Kept<N::Cache>,
    /// Most tokens of prompt and answer together.
    pub(super) context: usize,
}

/// Generates the answer and hands it out; returns the speed, if the answer was long enough.
pub(super) fn run<N: Network>(
    shared: &Shared<N>,
    request: &GenerateRequest,
    outgoing: &Outgoing,
) -> Option<TokenRate> {
    let answered = match request.operation {
        Operation::Chat | Operation::Completion => answer(shared, request, outgoing),
        Operation::Embedding => {
            embedding::answer(shared, request, outgoing).map(|()| (0, Duration::ZERO))
        }
    };
    match answered {
        Ok((tokens, elapsed)) if tokens >= MEASURED_TOKENS => {
            Some(TokenRate::measured(tokens.into(), elapsed))
        }
        Ok(_) | Err(Abort::Gone) => None,
        Err(Abort::Error(error)) => {
            // Whoever left meanwhile needs no error.
            let _ = outgoing.send(Err(error));
            None
        }
    }
}

fn answer<N: Network>(
    shared: &Shared<N>,
    request: &GenerateRequest,
    outgoing: &Outgoing,
) -> Result<(u32, Duration), Abort> {
    let asked = Request::read(request.operation, &request.body)?;
    let Request { prompt, sampling, stops, max_tokens, logprobs, prompt_logprobs, .. } = asked;
    let Shared { passes, kept, context } = shared;
    let (model, context) = (passes.model(), *context);
    let salt = asked.cache_salt.filter(|_| !request.isolated);
    check_lists(request, logprobs, prompt_logprobs)?;
    let prompt = tokens(model, context, prompt, "prompt")?;
    let room = context - prompt.len();
    let limit = max_tokens.map_or(room, |most| most.min(room));
    let tokenizer = &model.tokenizer;
    let scoring = prompt_logprobs.map(|most| Scoring::new(tokenizer, &prompt, most));
    let mut scoring = scoring.transpose()?;

    let begun = request.begun.as_ref().map_or("", |begun| &begun.text);
    if begun.len() / tokenizer.longest() >= context {
        return Err(too_long(context, "messages").into());
    }
    let mut beginning = Beginning::read(begun, tokenizer, limit);
    let read = beginning.tokens.len();
    let constraint = asked.schema.map(|schema| model.constrain(schema));
    let mut constraint = constraint.transpose()?;

    let member = passes.join();
    let mut text = [&*prompt, &*beginning.tokens].concat();
    // The scores of what is kept are not.
    let salt = salt.filter(|_| scoring.is_none());
    let known = salt.as_ref().and_then(|salt| kept.take(salt, &text));
    let empty = || model.network.begin(text.len(), context);
    let mut cache = known.map_or_else(empty, Ok)?;
    let cached = cache.len();
    let mut scores = Vec::new();
    let mut steps = text[cached..].chunks(model.network.step()).peekable();
    while let Some(step) = steps.next() {
        outgoing.check()?;
        let wanted = match (&scoring, steps.peek()) {
            (Some(_), _) => Wanted::Each,
            (None, Some(_)) => Wanted::Nothing,
            (None, None) => Wanted::Last,
        };
        let found;
        (cache, found) = member.read(step, cache, wanted)?;
        scores = match &mut scoring {
            Some(scoring) => scoring.read(found),
            None => found.into_iter().next().unwrap_or_default(),
        };
    }

    let mut sampler = Sampler::new(sampling, &prompt);
    let mut outlet = Outlet::new(stops);
    let tokens = logprobs.map(|most| TokenList::new(tokenizer, request.operation, most));
    let mut writer = Writer::new(request, outgoing, begun.len(), tokens);
    for token in &beginning.tokens {
        sampler.take(*token);
        constraint.as_mut().map_or(Ok(()), |constraint| constraint.advance(*token))?;
        writer.write(outlet.push(&tokenizer.piece(*token)))?;
    }
    let (mut written, mut last) = (read, None);
    let started = Instant::now();
    let reason = loop {
        if outlet.stopped() || constraint.as_ref().is_some_and(Constraint::is_over) {
            break "stop";
        }
        if written == limit {
            break "length";
        }
        if let Some(last) = last {
            outgoing.check()?;
            let found;
            (cache, found) = member.read(&[last], cache, Wanted::Last)?;
            scores = found.into_iter().next().unwrap_or_default();
        }
        let scores = std::mem::take(&mut scores);
        // Before anything of the request changes them.
        let likelihoods = logprobs.map(|_| Likelihoods::of(scores.clone()));
        let fits = |token| constraint.as_ref().is_none_or(|it| it.allows(token, tokenizer));
        let allowed = |token| beginning.allows(token, tokenizer) && fits(token);
        let token = sampler.choose(scores, allowed);
        let token = token.ok_or(BackendError::Failed)?;
        if beginning.is_over() && tokenizer.is_end(token) {
            break "stop";
        }
        written += 1;
        last = Some(token);
        text.push(token);
        constraint.as_mut().map_or(Ok(()), |constraint| constraint.advance(token))?;
        writer.list(token, likelihoods.as_ref());
        let piece = tokenizer.piece(token);
        beginning.advance(&piece);
        writer.write(outlet.push(&piece))?;
    };
    drop(member);
    if let Some(salt) = salt {
        kept.put(&salt, text, cache);
    }
    let stopped = outlet.stopped();
    writer.write(outlet.finish())?;
    let count = |tokens| u32::try_from(tokens).unwrap_or(u32::MAX);
    let usage = Usage { prompt_tokens: count(prompt.len()), completion_tokens: count(written) };
    let elapsed = started.elapsed();
    let cached = count(cached.min(prompt.len()));
    writer.finish(&End { reason, usage, cached, stopped }, scoring.as_ref())?;
    Ok((count(written - read), elapsed))
}

/// Refuses lists of tokens where they have no place.
fn check_lists(
    request: &GenerateRequest,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
) -> Result<(), BackendError> {
    if prompt_logprobs.is_some() && request.stream {
        let text = "prompt_logprobs come with an answer that is not streamed";
        return Err(refused(Some("prompt_logprobs"), text));
    }
    if logprobs.is_some() && request.begun.is_some() {
        let text = "an answer with log probabilities cannot be continued elsewhere";
        return Err(refused(Some("logprobs"), text));
    }
    Ok(())
}

/// Turns a prompt, which is the body's `param`, into tokens that leave room for at least one more.
pub(super) fn tokens<N>(
    model: &Model<N>,
    context: usize,
    prompt: Prompt,
    param: &'static str,
) -> Result<Vec<u32>, BackendError> {
    let encode = |text: String, param| {
        // No tokenizer needs to look at a text that cannot fit in any case.
        if text.len() / model.tokenizer.longest() >= context {
            return Err(too_long(context, param));
        }
        model.tokenizer.encode(&text).map_err(|_| refused(Some(param), "the text is not readable"))
    };
    let (tokens, param) = match prompt {
        Prompt::Chat(conversation) => {
            let text = model.template.render(conversation, SystemTime::now());
            (
                encode(text.map_err(|error| refused(Some("messages"), error))?, "messages")?,
                "messages",
            )
        }
        Prompt::Text(text) => (encode(text, param)?, param),
        Prompt::Tokens(tokens) => (tokens, param),
    };
    if tokens.is_empty() {
        return Err(refused(Some(param), "the prompt is empty"));
    }
    if tokens.iter().any(|token| *token as usize >= model.tokenizer.size()) {
        return Err(refused(Some(param), "the prompt holds tokens that the model does not have"));
    }
    if tokens.len() >= context {
        return Err(too_long(context, param));
    }
    Ok(tokens)
}

fn too_long(context: usize, param: &str) -> BackendError {
    BackendError::Rejected {
        status: 400,
        code: Some("context_length_exceeded".to_owned()),
        param: Some(param.to_owned()),
        message: format!(
            "this model reads and writes {context} tokens in all; the prompt is longer"
        ),
    }
}
