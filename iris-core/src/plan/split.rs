//! Cutting documents.

use text_splitter::{ChunkConfig, ChunkSizer, TextSplitter};

use super::{Item, Source, tokens};

/// How many pieces' lengths are looked at together. The splitter's work grows with the square of
/// what it is given where that has no borders at all.
const WINDOW: usize = 8;

/// Cuts a document into pieces of at most `most` tokens, estimated, at the most natural borders
/// that there are: paragraphs, sentences, words. Neighbours share up to `overlap` tokens, which are
/// less than half of `most`.
///
/// Each piece knows where in the document it stands.
pub fn split(document: &str, most: u32, overlap: u32) -> Vec<Item> {
    let most = usize::try_from(most.max(4)).unwrap_or(usize::MAX);
    let overlap = usize::try_from(overlap).unwrap_or(usize::MAX).min((most - 1) / 2);
    let config = ChunkConfig::new(most).with_sizer(Estimate);
    let config = config.with_overlap(overlap).expect("it is less than a piece");
    let splitter = TextSplitter::new(config);
    let window = most.saturating_mul(2 * WINDOW);
    let mut places = Places { document, at: 0, line: 1 };
    let mut items = Vec::new();
    let (mut start, mut covered) = (0, 0);
    while start < document.len() {
        let end = document.floor_char_boundary(start.saturating_add(window));
        let pieces: Vec<_> = splitter.chunk_indices(&document[start..end]).collect();
        // The last piece is cut where the window ends, so the next window begins with it.
        let next = match &pieces[..] {
            [_, .., (at, _)] if *at > 0 && end < document.len() => start + at,
            _ => end,
        };
        for (at, piece) in pieces {
            let at = start + at;
            // Where windows meet, a piece may repeat what others have.
            if (at < next || next == end) && at + piece.len() > covered {
                covered = at + piece.len();
                items.push(places.item(at, piece));
            }
        }
        start = next;
    }
    items
}

struct Estimate;

impl ChunkSizer for Estimate {
    fn size(&self, text: &str) -> usize {
        tokens(text) as usize
    }
}

/// Counts lines up to a place that only moves on.
struct Places<'a> {
    document: &'a str,
    at: usize,
    line: u64,
}

impl Places<'_> {
    fn item(&mut self, start: usize, text: &str) -> Item {
        self.line += lines(&self.document[self.at..start]);
        self.at = start;
        let (line, last_line) = (self.line, self.line + lines(text));
        let (start, end) = (start as u64, (start + text.len()) as u64);
        Item { text: text.to_owned(), source: Some(Source { start, end, line, last_line }) }
    }
}

fn lines(text: &str) -> u64 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn story(paragraphs: usize) -> String {
        let lines = (0..paragraphs).map(|n| {
            format!(
                "Paragraph {n} begins. Anna met a dog, and {n} birds sang.\nThen she slept.\n\n"
            )
        });
        lines.collect()
    }

    fn ends(source: Source) -> (usize, usize) {
        let place = |at: u64| usize::try_from(at).unwrap();
        (place(source.start), place(source.end))
    }

    #[test]
    fn pieces_end_where_paragraphs_do() {
        let document = story(40);
        let items = split(&document, 100, 0);
        assert!(items.len() >= 20, "{}", items.len());
        for item in &items {
            assert!(item.text.starts_with("Paragraph"), "{}", item.text);
            assert!(item.text.ends_with("slept."), "{}", item.text);
        }
    }

    #[test]
    fn places_lead_back_to_the_document() {
        let document = story(200);
        for item in split(&document, 100, 20) {
            let source = item.source.unwrap();
            let (start, end) = ends(source);
            assert_eq!(&document[start..end], item.text);
            let line = document[..start].matches('\n').count() as u64 + 1;
            let last = document[..end].matches('\n').count() as u64 + 1;
            assert_eq!((source.line, source.last_line), (line, last));
        }
    }

    #[test]
    fn neighbours_overlap() {
        let document = "one two three four five six seven eight nine ten ".repeat(50);
        let items = split(&document, 100, 30);
        let shared = items.windows(2).filter(|pair| {
            let [first, second] = pair else { unreachable!() };
            second.source.unwrap().start < first.source.unwrap().end
        });
        assert_eq!(shared.count(), items.len() - 1);
    }

    proptest! {
        #[test]
        fn every_word_is_in_some_piece_and_no_piece_is_too_long(
            document in "([a-zé]{1,9}[ .\n]|日本語|\n\n|x{40}){0,120}", most in 8_u32..80, overlap in 0_u32..40,
        ) {
            let items = split(&document, most, overlap);
            let mut covered = 0;
            for item in &items {
                prop_assert!(tokens(&item.text) <= most, "{}", item.text);
                let source = item.source.unwrap();
                let (start, end) = ends(source);
                prop_assert_eq!(&document[start..end], &item.text);
                if start > covered {
                    prop_assert!(document[covered..start].trim().is_empty());
                }
                prop_assert!(end > covered, "pieces go on");
                covered = end;
            }
            prop_assert!(document[covered..].trim().is_empty());
        }
    }
}
