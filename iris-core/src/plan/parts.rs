//! Independent parts of a question, found by rule.
//!
//! The rule would rather find none than divide what belongs together: a list has to be asked for,
//! and a part that speaks of another one keeps all of them in one piece.

/// Most parts.
const MOST: usize = 32;
/// How much of a paragraph is read; a document that is part of the question is not.
const READ: usize = 1000;

/// A question, taken apart: each of the items makes a question of its own where it stands alone
/// between `before` and `after`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub(super) before: &'a str,
    pub(super) items: Vec<&'a str>,
    pub(super) after: &'a str,
}

/// Finds the parts of `prompt`: things to extract, a list of instructions, or several questions.
pub(super) fn parts(prompt: &str) -> Option<Parts<'_>> {
    let found = lines(prompt).or_else(|| {
        let mut zones = vec![first_paragraph(prompt), last_paragraph(prompt)];
        zones.dedup();
        let in_zone = |(start, end): (usize, usize)| {
            numbered(prompt, start, end)
                .or_else(|| enumerated(prompt, start, end))
                .or_else(|| questions(prompt, start, end))
        };
        zones.into_iter().find_map(in_zone)
    })?;
    let fits = (2..=MOST).contains(&found.items.len());
    let independent = found.items.iter().skip(1).all(|item| !refers_back(item));
    (fits && independent).then_some(found)
}

fn first_paragraph(prompt: &str) -> (usize, usize) {
    let start = prompt.len() - prompt.trim_start().len();
    let end = prompt[start..].find("\n\n").map_or(prompt.len(), |at| start + at);
    (start, end.min(prompt.floor_char_boundary(start + READ)))
}

fn last_paragraph(prompt: &str) -> (usize, usize) {
    let end = prompt.trim_end().len();
    let start = prompt[..end].rfind("\n\n").map_or(0, |at| at + 2);
    if end - start > READ { (end, end) } else { (start, end) }
}

/// Finds the one list of lines with numbers or bullets, if its items are instructions or questions,
/// or things that the line before it asks for.
fn lines(prompt: &str) -> Option<Parts<'_>> {
    let mut runs: Vec<Vec<(usize, usize, usize)>> = Vec::new();
    let (mut at, mut is_run) = (0, false);
    for line in prompt.split_inclusive('\n') {
        let number = runs.last().filter(|_| is_run).map_or(1, |run| run.len() + 1);
        if let Some(marker) = marker(line, number) {
            let item = (at, at + marker, at + line.trim_end().len());
            match runs.last_mut().filter(|_| is_run) {
                Some(run) => run.push(item),
                None => runs.push(vec![item]),
            }
            is_run = true;
        } else if !line.trim().is_empty() {
            is_run = false;
        }
        at += line.len();
    }
    runs.retain(|run| run.len() > 1);
    let [run] = &runs[..] else { return None };
    let (start, end) = (run.first()?.0, run.last()?.2);
    let items: Vec<_> = run.iter().map(|(_, text, end)| prompt[*text..*end].trim()).collect();
    are_asked(&prompt[..start], &items).then(|| Parts {
        before: &prompt[..start],
        items,
        after: &prompt[end..],
    })
}

/// Returns how long the marker of a list's line is: a bullet, or the number that comes next.
fn marker(line: &str, number: usize) -> Option<usize> {
    let text = line.trim_start();
    let indent = line.len() - text.len();
    let bullet = ["- ", "* ", "• "].into_iter().find(|bullet| text.starts_with(bullet));
    let numbers = [format!("{number}. "), format!("{number}) "), format!("({number}) ")];
    let length = bullet.map(str::len).or_else(|| {
        numbers.iter().find(|number| text.starts_with(number.as_str())).map(String::len)
    })?;
    (indent <= 4 && !text[length..].trim().is_empty()).then_some(indent + length)
}

/// Finds `1) .. 2) ..` within a paragraph.
fn numbered(prompt: &str, start: usize, end: usize) -> Option<Parts<'_>> {
    let mut marks = Vec::new();
    let mut from = start;
    for number in 1..=MOST + 1 {
        let mark = format!("{number}) ");
        let Some(at) = prompt[from..end].find(&mark).map(|at| from + at) else { break };
        let opened = prompt[start..at].ends_with('(');
        let begin = at - usize::from(opened);
        if !prompt[start..begin].chars().next_back().is_none_or(char::is_whitespace) {
            return None;
        }
        marks.push((begin, at + mark.len()));
        from = at + mark.len();
    }
    let last = marks.last()?.1;
    let stop = last + sentence(&prompt[last..end]);
    let ends = marks.iter().skip(1).map(|mark| mark.0).chain([stop]);
    let items: Vec<_> = marks
        .iter()
        .zip(ends)
        .map(|(mark, end)| {
            let item = prompt[mark.1..end].trim().trim_end_matches([',', ';', '.']);
            let without = |word| item.strip_suffix(word).filter(|_| end != stop);
            let item = without(" and").or_else(|| without(" y")).unwrap_or(item);
            item.trim_end_matches([',', ';', ' '])
        })
        .collect();
    let before = &prompt[..marks[0].0];
    let any_empty = items.iter().any(|item| item.is_empty());
    (!any_empty && are_asked(before, &items)).then_some(Parts {
        before,
        items,
        after: &prompt[stop..],
    })
}

/// Finds "extract: a, b and c" and "extract a, b and c from this text".
fn enumerated(prompt: &str, start: usize, end: usize) -> Option<Parts<'_>> {
    let zone = &prompt[start..end];
    let colons = zone.match_indices(": ").filter(|(at, _)| introduces(&zone[..*at]));
    let with_colon = colons.map(|(at, _)| (start + at + 1, false));
    let first = zone.split_whitespace().next().unwrap_or_default();
    let polite = zone.len() - zone.trim_start_matches(first).trim_start().len();
    let is_polite = first.eq_ignore_ascii_case("please");
    let skipped = if is_polite { polite } else { 0 };
    let verb = zone[skipped..].split_whitespace().next().unwrap_or_default();
    let direct = ["extract", "identify", "extrae", "identifica"];
    let is_direct = direct.contains(&verb.to_lowercase().as_str());
    let without_colon = is_direct.then_some((start + skipped + verb.len(), true));
    with_colon.chain(without_colon).find_map(|(from, needs_text)| {
        let list = from + (prompt[from..end].len() - prompt[from..end].trim_start().len());
        let stop = list + sentence(&prompt[list..end]);
        let (length, has_text) = without_text(&prompt[list..stop]);
        if needs_text && !has_text {
            return None;
        }
        let items = things(&prompt[list..list + length])?;
        Some(Parts { before: &prompt[..list], items, after: &prompt[list + length..] })
    })
}

/// Returns where the sentence ends that `text` begins with, its closing mark not included.
fn sentence(text: &str) -> usize {
    let ends = |(at, c): (usize, char)| {
        let next = text[at + c.len_utf8()..].chars().next();
        match c {
            '\n' => true,
            '.' | '?' | '!' | ':' => next.is_none_or(char::is_whitespace),
            _ => false,
        }
    };
    text.char_indices().find(|found| ends(*found)).map_or(text.len(), |(at, _)| at)
}

/// Returns how much of an enumeration comes before "from this text", and whether that is there.
fn without_text(list: &str) -> (usize, bool) {
    let mut at = list.rfind([',', ';']).unwrap_or(0);
    while let Some(space) = list[at..].find(' ').map(|space| at + space) {
        at = space + 1;
        let mut words = list[at..].split_whitespace().map(word);
        let leads = words
            .next()
            .is_some_and(|word| ["from", "of", "in", "de", "del", "en"].contains(&word.as_str()));
        if leads && words.take(3).any(|word| TEXTS.contains(&word.as_str())) {
            return (space, true);
        }
    }
    (list.len(), false)
}

/// Takes an enumeration of at least three apart.
fn things(list: &str) -> Option<Vec<&str>> {
    let mut items: Vec<_> = list.trim().split([',', ';']).map(str::trim).collect();
    let tail = items.pop()?;
    let joined = |text: &str| {
        let all = CONJUNCTIONS.iter().flat_map(|word| text.match_indices(word));
        all.map(|(at, word)| (at, at + word.len())).collect::<Vec<_>>()
    };
    match joined(&format!(" {tail}"))[..] {
        [] => items.push(tail),
        // After a comma of its own.
        [(0, end)] => items.push(tail[end - 1..].trim()),
        [(at, end)] => items.extend([tail[..at - 1].trim(), tail[end - 1..].trim()]),
        _ => return None,
    }
    let is_thing = |item: &&str| {
        let words = item.split_whitespace().count();
        (1..=6).contains(&words) && item.starts_with(char::is_alphabetic)
    };
    (items.len() >= 3 && items.iter().all(is_thing)).then_some(items)
}

/// Finds a paragraph of nothing but questions.
fn questions(prompt: &str, start: usize, end: usize) -> Option<Parts<'_>> {
    let mut items = Vec::new();
    let mut rest = prompt[start..end].trim_end();
    let length = rest.len();
    while !rest.is_empty() {
        let at = rest.find('?')?;
        let (question, after) = rest.split_at(at + 1);
        let question = question.trim();
        let closed = after.is_empty() || after.starts_with(char::is_whitespace);
        let opening = question.trim_start_matches('¿').split_whitespace().next()?;
        let is_one = !question.contains(['.', '!', '\n', '"']);
        if !closed || !is_one || !ASKING.contains(&word(opening).as_str()) {
            return None;
        }
        items.push(question);
        rest = after.trim_start();
    }
    (items.len() > 1).then_some(Parts {
        before: &prompt[..start],
        items,
        after: &prompt[start + length..],
    })
}

/// Returns whether the items of a list are work to do, or what the text before it asks for.
fn are_asked(before: &str, items: &[&str]) -> bool {
    let is_work = |item: &&str| {
        let first = item.split_whitespace().next().map(word).unwrap_or_default();
        item.ends_with('?') || VERBS.contains(&first.as_str()) || WORK.contains(&first.as_str())
    };
    let head = before.trim_end();
    items.iter().all(is_work) || head.strip_suffix(':').is_some_and(introduces)
}

/// Returns whether what ends here asks for the things that follow, each for itself.
fn introduces(head: &str) -> bool {
    let sentence = head.rsplit(['.', '?', '!', '\n']).next().unwrap_or_default();
    let words: Vec<_> = sentence.split_whitespace().map(word).collect();
    if words.iter().any(|word| TOGETHER.contains(&word.as_str())) {
        return false;
    }
    let last = words
        .iter()
        .rev()
        .find(|word| !FILLERS.contains(&word.as_str()) && !TEXTS.contains(&word.as_str()));
    last.is_some_and(|word| VERBS.contains(&word.as_str()))
}

/// Returns whether a part speaks of another one.
fn refers_back(item: &str) -> bool {
    let words: Vec<_> = item.split_whitespace().map(word).collect();
    let names_text =
        |at: usize| words.get(at + 1).is_some_and(|next| TEXTS.contains(&next.as_str()));
    words.iter().enumerate().any(|(at, word)| {
        let pointing = ["this", "that", "these", "those", "esto", "eso"].contains(&word.as_str());
        let enclitic = word.contains(['á', 'é', 'í', 'ó', 'ú'])
            && ["lo", "la", "los", "las"].iter().any(|end| word.ends_with(end));
        BACK.contains(&word.as_str()) || (pointing && !names_text(at)) || enclitic
    })
}

/// Returns a word in lower case, without the marks around it.
fn word(text: &str) -> String {
    text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

const CONJUNCTIONS: [&str; 5] = [" and ", " y ", " e ", " & ", " as well as "];

/// What may be asked of each of several things.
const VERBS: [&str; 36] = [
    "extract",
    "identify",
    "find",
    "describe",
    "explain",
    "summarize",
    "summarise",
    "analyze",
    "analyse",
    "give",
    "determine",
    "outline",
    "discuss",
    "provide",
    "extrae",
    "extraer",
    "extraiga",
    "identifica",
    "identificar",
    "identifique",
    "encuentra",
    "encontrar",
    "enumera",
    "enumerar",
    "describir",
    "explica",
    "explicar",
    "analiza",
    "analizar",
    "dame",
    "indica",
    "indicar",
    "determina",
    "determinar",
    "resumir",
    "busca",
];

/// What else an instruction begins with.
const WORK: [&str; 40] = [
    "write",
    "translate",
    "calculate",
    "compute",
    "list",
    "name",
    "tell",
    "answer",
    "create",
    "make",
    "generate",
    "compare",
    "suggest",
    "propose",
    "count",
    "reverse",
    "spell",
    "draft",
    "convert",
    "classify",
    "define",
    "state",
    "add",
    "multiply",
    "subtract",
    "recommend",
    "prove",
    "escribe",
    "traduce",
    "calcula",
    "haz",
    "crea",
    "genera",
    "compara",
    "sugiere",
    "propone",
    "cuenta",
    "resume",
    "nombra",
    "di",
];

/// What may stand between such a verb and its things.
const FILLERS: [&str; 40] = [
    "the",
    "following",
    "these",
    "those",
    "all",
    "of",
    "things",
    "aspects",
    "points",
    "parts",
    "topics",
    "elements",
    "items",
    "me",
    "us",
    "please",
    "from",
    "in",
    "below",
    "above",
    "its",
    "los",
    "las",
    "lo",
    "siguiente",
    "siguientes",
    "estos",
    "estas",
    "cosas",
    "aspectos",
    "puntos",
    "partes",
    "temas",
    "elementos",
    "de",
    "del",
    "la",
    "el",
    "este",
    "favor",
];

/// What a text is called.
const TEXTS: [&str; 19] = [
    "text",
    "story",
    "document",
    "article",
    "passage",
    "book",
    "paragraph",
    "letter",
    "report",
    "following",
    "below",
    "texto",
    "cuento",
    "documento",
    "artículo",
    "pasaje",
    "libro",
    "carta",
    "informe",
];

/// What is asked of several things together.
const TOGETHER: [&str; 16] = [
    "compare",
    "difference",
    "differences",
    "between",
    "contrast",
    "common",
    "relation",
    "relationship",
    "combine",
    "merge",
    "compara",
    "diferencia",
    "diferencias",
    "entre",
    "común",
    "relación",
];

/// What a question begins with.
const ASKING: [&str; 46] = [
    "what", "who", "whose", "whom", "where", "when", "why", "which", "how", "is", "are", "was",
    "were", "do", "does", "did", "can", "could", "should", "would", "will", "has", "have", "qué",
    "quién", "quiénes", "dónde", "cuándo", "cuál", "cuáles", "cómo", "cuánto", "cuánta", "cuántos",
    "cuántas", "es", "son", "está", "hay", "puede", "tiene", "por", "en", "a", "de", "para",
];

/// What speaks of something that was said before.
const BACK: [&str; 44] = [
    "it",
    "its",
    "he",
    "she",
    "him",
    "her",
    "his",
    "hers",
    "they",
    "them",
    "their",
    "theirs",
    "then",
    "previous",
    "previously",
    "above",
    "former",
    "latter",
    "result",
    "results",
    "answer",
    "answers",
    "so",
    "too",
    "also",
    "else",
    "other",
    "others",
    "both",
    "ello",
    "él",
    "ella",
    "ellos",
    "ellas",
    "su",
    "sus",
    "anterior",
    "anteriores",
    "resultado",
    "luego",
    "después",
    "entonces",
    "también",
    "ambos",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(prompt: &str) -> Vec<&str> {
        parts(prompt).map(|parts| parts.items).unwrap_or_default()
    }

    #[test]
    fn things_to_extract_are_parts() {
        let three = ["themes", "characters", "conclusions"];
        for prompt in [
            "extract: themes, characters and conclusions",
            "Extract: themes, characters, and conclusions.",
            "Analyze this text and extract: themes, characters and conclusions. Anna had a dog.",
            "Analyze this text and extract: themes, characters and conclusions.\n\nAnna, Ben and I.",
            "Anna had a dog.\n\nFrom this text extract the following: themes, characters and conclusions",
            "Extract themes, characters and conclusions from this text. Anna had a dog.",
            "Please extract themes, characters and conclusions from the text below.\n\nAnna.",
            "Extract: themes, characters and conclusions of the story: Anna had a dog.",
        ] {
            assert_eq!(items(prompt), three, "{prompt}");
        }
        let spanish = "Analiza el texto y extrae: temas, personajes y conclusiones.\n\nAna vivía.";
        assert_eq!(items(spanish), ["temas", "personajes", "conclusiones"]);
    }

    #[test]
    fn each_part_keeps_what_surrounds_it() {
        let prompt = "Analyze this text and extract: themes, characters and conclusions. Anna.";
        let parts = parts(prompt).unwrap();
        assert_eq!(parts.before, "Analyze this text and extract: ");
        assert_eq!(parts.after, ". Anna.");
        let prompt = "Extract themes, characters and conclusions from this text. Anna.";
        assert_eq!(super::parts(prompt).unwrap().after, " from this text. Anna.");
    }

    #[test]
    fn lists_of_work_are_parts() {
        let lines = "Answer:\n1. What is 3 + 4?\n2. What is the capital of France?\n\nBe brief.";
        assert_eq!(items(lines), ["What is 3 + 4?", "What is the capital of France?"]);
        assert_eq!(parts(lines).unwrap().after, "\n\nBe brief.");
        let bullets = "- Translate dog to Spanish\n- Reverse the word river\n";
        assert_eq!(items(bullets), ["Translate dog to Spanish", "Reverse the word river"]);
        let things = "Identify these aspects of the text:\n* tone\n* audience\n\nOnce upon a time";
        assert_eq!(items(things), ["tone", "audience"]);
        let inline =
            "Please 1) summarize the text, 2) list the characters and 3) give the lesson. Anna.";
        assert_eq!(items(inline), ["summarize the text", "list the characters", "give the lesson"]);
    }

    #[test]
    fn several_questions_are_parts() {
        let english = "What is the capital of France? How many letters are in river?";
        assert_eq!(items(english).len(), 2);
        let spanish = "¿Cuál es la capital de Francia? ¿Cuántas letras tiene río?";
        assert_eq!(items(spanish)[1], "¿Cuántas letras tiene río?");
        assert_eq!(items("Anna had a dog.\n\nWho is Anna? What animal is there?").len(), 2);
    }

    #[test]
    fn what_belongs_together_is_not_divided() {
        for prompt in [
            "",
            "What is the capital of France?",
            "Yesterday Anna, Ben and Clara went to the market, and they bought apples.",
            "Write a story with these characters: a dog, a cat and a fox",
            "Which is larger: three, four or five?",
            "Merge these lists: themes, characters and conclusions.",
            "Explain the difference between: cats, dogs and birds",
            "Explain: rise and fall of Rome",
            "Name: John Smith, thirty, Madrid",
            "Summarize these notes:\n- bought milk\n- sold the cow",
            "Sort this list:\n1. pear\n2. apple",
            "1. Write a story\n2. Translate it to Spanish",
            "Who was Einstein? What did he discover?",
            "What is rain? Why?! I do not know.",
            "1. Escribe un cuento\n2. Tradúcelo al inglés",
            "He said: \"What is it? Who is there?\"",
            "Explain: inflation",
        ] {
            assert_eq!(parts(prompt), None, "{prompt}");
        }
    }

    proptest! {
        #[test]
        fn parts_stand_in_the_prompt_in_order(
            prompt in "(extract: |1\\) |2\\) |- |What |list |, | and |y |\\?|\\n|\\. |é|[a-z]{1,5} ){0,24}",
        ) {
            if let Some(parts) = parts(&prompt) {
                prop_assert!(prompt.starts_with(parts.before) && prompt.ends_with(parts.after));
                let mut rest = &prompt[parts.before.len()..prompt.len() - parts.after.len()];
                for item in parts.items {
                    prop_assert!(!item.is_empty());
                    let at = rest.find(item);
                    prop_assert!(at.is_some(), "{}", item);
                    rest = &rest[at.unwrap() + item.len()..];
                }
            }
        }
    }
}
