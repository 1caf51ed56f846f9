use super::mode::{Capacity, Chat, Division};
use super::question::Question;
use super::{Ask, Item, Items, Mode, Plan, PlanError, Source, Step, Template, Work, split, tokens};

/// The longest piece, in tokens: longer ones leave nodes idle.
const PIECE: u32 = 16 << 10;
/// The shortest piece that is worth a node's time.
const LEAST: u32 = 64;
/// The longest answer where none is asked for, in tokens.
const ANSWER: u32 = 1024;
/// Most pieces; the plan has two steps.
const PIECES: usize = Plan::MAX_UNITS - 2;
/// Tokens that frame a message.
const FRAME: u32 = 8;

/// Answers a question about a document that is longer than what a node takes: each piece is asked
/// side by side, and the answers are merged as a tree.
///
/// Pieces are numbered from 1, and answers cite them as `[3]`; where a piece stands is in the
/// plan's progress. Without a document, the question's own text is one.
pub fn context(chat: Chat, division: &Division, capacity: Capacity) -> Result<Plan, PlanError> {
    chat.refuse(&["tools", "functions"], "no tools can be called about a part of a document")?;
    let Document { text, origin, question } = Document::of(&chat, division)?;
    let chat = Chat { prompt: question, ..chat };
    let room = Room::of(&chat, capacity)?;
    let overlap = division.overlap_tokens.unwrap_or(room.piece / 10);
    if overlap > room.piece / 2 {
        let what = format!("it is at most half of a piece, which has {} tokens", room.piece);
        return Err(error("overlap_tokens", what));
    }
    let too_many = |count: usize| {
        let most = text.len() / count * PIECES / 1000;
        let what = format!(
            "it makes {count} pieces, and {PIECES} is the most: for nodes with a context of {} \
             tokens, it has at most about {most} kB",
            capacity.context_tokens
        );
        error("document", what)
    };
    // Cutting takes time, so what is far too long is refused before it.
    let least = (tokens(&text) / room.piece) as usize;
    if least > PIECES {
        return Err(too_many(least));
    }
    let mut pieces = split(&text, room.piece, overlap);
    if pieces.is_empty() {
        return Err(error("document", "there is nothing in it"));
    }
    if pieces.len() > PIECES {
        return Err(too_many(pieces.len()));
    }
    for piece in &mut pieces {
        origin.shift(piece);
    }
    // Every level has half as many answers as the one below, or fewer.
    let most_levels = pieces.len().ilog2() + 1;
    let read = Ask { max_tokens: Some(room.answer), ..asking(&chat, READING, READ) };
    let merge = Ask { max_tokens: Some(room.answer), ..asking(&chat, MERGING, MERGE) };
    let read =
        Step::new("excerpt", Work::Each { items: Items::Given(pieces), ask: Box::new(read) });
    let of = read.name.clone();
    let fold = Work::Fold { of, ask: Box::new(merge), most_tokens: room.merged, most_levels };
    Ok(Plan::of_steps(Mode::Context, chat.prompt, vec![read, Step::new("answer", fold)]))
}

const READING: &str = "You read excerpt [{{ part }}] of {{ parts }} (lines {{ lines }}). Answer from \
                       it only and cite it.";
const READ: &str = "{{ input }}\n\n{{ item }}";
const MERGING: &str = "Merge these answers from excerpts of one document. Keep citations like [1].";
const MERGE: &str = "{{ input }}\n\n{{ item }}";

/// Asks with instructions before the user's own.
fn asking(chat: &Chat, instructions: &str, prompt: &str) -> Ask {
    let own = chat.system.iter().map(|system| format!("{}\n\n", Template::literal(system.clone())));
    let system = format!("{}{instructions}", own.collect::<String>());
    let template = |text: &str| text.parse().expect("it is a template");
    Ask { system: Some(template(&system)), ..chat.ask(template(prompt)) }
}

/// What a question is about.
struct Document {
    text: String,
    origin: Origin,
    question: String,
}

impl Document {
    fn of(chat: &Chat, division: &Division) -> Result<Self, PlanError> {
        if let Some(document) = &division.document {
            if document.len() > Plan::MAX_INPUT {
                return Err(error("document", "it has at most 32 MiB"));
            }
            let (text, question) = (document.clone(), chat.prompt.clone());
            return Ok(Self { text, origin: Origin::default(), question });
        }
        let question = Question::of(&chat.prompt);
        let what =
            "without a `document`, a short question has to stand before or after a long text";
        let (start, text) = question.text.ok_or_else(|| error("document", what))?;
        let line = chat.prompt[..start].matches('\n').count() as u64;
        let origin = Origin { start: start as u64, line };
        Ok(Self { text: text.to_owned(), origin, question: question.asked.to_owned() })
    }
}

/// Where a document begins in the prompt.
#[derive(Default)]
struct Origin {
    start: u64,
    line: u64,
}

impl Origin {
    fn shift(&self, piece: &mut Item) {
        piece.source = piece.source.map(|source| Source {
            start: source.start + self.start,
            end: source.end + self.start,
            line: source.line + self.line,
            last_line: source.last_line + self.line,
        });
    }
}

/// How a node's context is shared out, in tokens.
#[derive(Debug)]
struct Room {
    answer: u32,
    piece: u32,
    merged: u32,
}

impl Room {
    fn of(chat: &Chat, capacity: Capacity) -> Result<Self, PlanError> {
        let all = capacity.context_tokens;
        let answer = chat.max_tokens.unwrap_or(ANSWER).min(all / 4).max(1);
        let history = chat.history.iter().map(|message| tokens(&message.to_string()));
        let history =
            history.fold(0, |sum: u32, each| sum.saturating_add(each).saturating_add(FRAME));
        let system = chat.system.as_deref().map_or(0, tokens);
        // Two messages of our own; the numbers are longer than the places that they fill.
        let own = tokens(READING) + tokens("\n\n\n\n") + 2 * FRAME;
        let question = tokens(&chat.prompt);
        let used = [history, system, own, question, answer].into_iter();
        let used = used.fold(0, u32::saturating_add);
        let left = all.saturating_sub(used);
        // Two answers at least have to fit into a merge.
        if left < LEAST || left < answer.saturating_mul(2) {
            let what = format!(
                "the question, the conversation before it and an answer take {used} of the {all} \
                 tokens that the model's nodes have for everything; a shorter question, a smaller \
                 `max_tokens` or a model with a longer context leaves room for the document"
            );
            return Err(error("document", what));
        }
        Ok(Self { answer, piece: left.min(PIECE), merged: left })
    }
}

fn error(at: &str, what: impl Into<String>) -> PlanError {
    PlanError { at: at.to_owned(), what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Abilities;

    fn capacity(context_tokens: u32) -> Capacity {
        Capacity { context_tokens, abilities: Abilities::NONE }
    }

    fn made(prompt: &str, document: Option<String>, tokens: u32) -> Result<Plan, PlanError> {
        let chat = Chat::new("m".parse().unwrap(), prompt);
        let plan = context(chat, &Division { document, ..Division::default() }, capacity(tokens))?;
        plan.check()?;
        Ok(plan)
    }

    fn pieces(plan: &Plan) -> &[Item] {
        match &plan.steps[0].work {
            Work::Each { items: Items::Given(items), .. } => items,
            _ => panic!("the pieces are known"),
        }
    }

    #[test]
    fn few_kilobytes_fit_a_small_context_in_pieces() {
        let document = "Anna met a dog. They walked to the village.\n".repeat(100);
        let plan = made("What are the themes of this text?", Some(document), 512).unwrap();
        let pieces = pieces(&plan);
        assert!((5..60).contains(&pieces.len()), "{}", pieces.len());
        let Work::Fold { most_tokens, ask, .. } = &plan.steps[1].work else { panic!("merged") };
        assert!(ask.max_tokens.unwrap() * 2 <= *most_tokens);
    }

    #[test]
    fn long_prompt_is_its_own_document_with_its_own_lines() {
        let text = "Anna met a dog.\n".repeat(500);
        let plan = made(&format!("Who is Anna?\n\n{text}"), None, 1024).unwrap();
        assert_eq!(plan.input, "Who is Anna?");
        assert_eq!(pieces(&plan)[0].source.unwrap().line, 3);
    }

    #[test]
    fn megabytes_are_cut_within_what_a_plan_may_have() {
        let document = "Anna met a dog, and they walked to the village.\n".repeat(60_000);
        let plan = made("Who is Anna?", Some(document.clone()), 8192).unwrap();
        assert!(pieces(&plan).len() > 200);
        let refused = made("Who is Anna?", Some(document), 512).unwrap_err();
        assert_eq!(refused.at, "document");
        assert!(refused.what.contains("kB"), "{}", refused.what);
    }

    #[test]
    fn what_leaves_no_room_is_refused() {
        let long = "Why is that so? ".repeat(60);
        assert_eq!(made(&long, Some("x".to_owned()), 512).unwrap_err().at, "document");
        assert_eq!(made("Who?", None, 512).unwrap_err().at, "document");
        assert_eq!(made("Who?", Some(" \n".to_owned()), 512).unwrap_err().at, "document");
        assert_eq!(made("Who?", Some("x".to_owned()), 0).unwrap_err().at, "document");
        let division = Division {
            document: Some("x".to_owned()),
            overlap_tokens: Some(400),
            ..Division::default()
        };
        let chat = Chat::new("m".parse().unwrap(), "Who?");
        assert_eq!(context(chat, &division, capacity(512)).unwrap_err().at, "overlap_tokens");
    }
}
