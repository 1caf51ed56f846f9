//! Tables that fit where they are read: 80 columns where nobody says how wide that is.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Width};

use super::terminal::{Output, reorders};

/// How wide a table is that goes to a file or another program.
const USUAL: u16 = 80;
/// What is between two columns.
const GAP: u16 = 2;
/// Names are not cut shorter than this while there is another column to give up.
const LEAST: u16 = 12;

/// A table without lines, in which names are cut, and columns left out, until it fits.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// One column.
#[derive(Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    /// Columns of the highest number are left out first; never those of 0.
    rank: u8,
    may_shrink: bool,
    is_number: bool,
    is_extra: bool,
}

impl Column {
    /// A column of what few want to know, which is in wide tables alone.
    pub(super) const fn extra(title: &'static str) -> Self {
        Self { is_extra: true, ..Self::new(title, u8::MAX) }
    }

    /// A column of what is told in few letters, left out before all of a lower rank.
    pub(super) const fn new(title: &'static str, rank: u8) -> Self {
        Self { title, rank, may_shrink: false, is_number: false, is_extra: false }
    }

    /// Lets texts be cut.
    pub(super) const fn cut(self) -> Self {
        Self { may_shrink: true, ..self }
    }

    /// Aligns numbers.
    pub(super) const fn number(self) -> Self {
        Self { is_number: true, ..self }
    }
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, with a text for each column.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| one_line(&cell)).collect());
    }

    /// Writes the table, for a reader of this width.
    pub(super) fn write(&self, output: &mut Output, wide: bool) -> std::io::Result<()> {
        let width = if wide { u16::MAX } else { output.width().unwrap_or(USUAL) };
        output.line(&self.render(width))
    }

    fn render(&self, width: u16) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(u16::MAX);
        // Texts are cut between letters: they have no such character, at which to cut rather.
        table.set_truncation_indicator("…").set_delimiter('\0');
        table.set_header(self.columns.iter().map(|column| column.title));
        for cells in &self.rows {
            let mut row = Row::from(cells.clone());
            table.add_row(std::mem::take(row.max_height(1)));
        }
        let widths = self.fit(&table.column_max_content_widths(), width);
        let last = widths.iter().rposition(Option::is_some);
        for (place, (column, width)) in self.columns.iter().zip(&widths).enumerate() {
            let Some(laid) = table.column_mut(place) else { continue };
            let gap = if Some(place) == last { 0 } else { GAP };
            laid.set_padding((0, gap));
            laid.set_constraint(match width {
                Some(width) => ColumnConstraint::Absolute(Width::Fixed(width.saturating_add(gap))),
                None => ColumnConstraint::Hidden,
            });
            if column.is_number {
                laid.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }

    /// Returns how wide each column is; `None` for those that are left out.
    fn fit(&self, natural: &[u16], width: u16) -> Vec<Option<u16>> {
        let mut widths: Vec<_> = (self.columns.iter().zip(natural))
            .map(|(column, natural)| {
                let least = if column.may_shrink { LEAST.min(*natural) } else { *natural };
                (!column.is_extra || width == u16::MAX).then_some(least)
            })
            .collect();
        while taken(&widths) > u32::from(width) {
            let least = (self.columns.iter().enumerate())
                .filter(|(place, column)| column.rank > 0 && widths[*place].is_some())
                .max_by_key(|(place, column)| (column.rank, *place));
            let Some((place, _)) = least else { break };
            widths[place] = None;
        }
        let mut shrinking: Vec<_> = (self.columns.iter().enumerate())
            .filter(|(place, column)| column.may_shrink && widths[*place].is_some())
            .map(|(place, _)| place)
            .collect();
        // Too narrow for even these: names give way.
        while taken(&widths) > u32::from(width)
            && let Some(place) = shrinking.iter().copied().max_by_key(|place| widths[*place])
            && let Some(shrunk) = widths[place].filter(|width| *width > 1)
        {
            widths[place] = Some(shrunk - 1);
        }
        // What is left goes to the names that need it, a letter at a time.
        while taken(&widths) < u32::from(width) {
            shrinking.retain(|place| widths[*place].is_some_and(|width| width < natural[*place]));
            let Some(place) = shrinking.iter().copied().min_by_key(|place| widths[*place]) else {
                break;
            };
            widths[place] = widths[place].map(|width| width + 1);
        }
        widths
    }
}

/// Writes a text after `lead`, in lines that are no wider than what is read.
pub(super) fn paragraph(output: &mut Output, lead: &str, text: &str) -> std::io::Result<()> {
    let width = output.width().unwrap_or(USUAL);
    let mut table = comfy_table::Table::new();
    table.load_style(NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.add_row([lead, &one_line(text)]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 0));
    }
    output.line(&table.trim_fmt())
}

/// Returns how wide a table with these columns is.
fn taken(widths: &[Option<u16>]) -> u32 {
    let shown = widths.iter().flatten();
    let gaps = u32::from(GAP) * u32::try_from(shown.clone().count()).unwrap_or(0).saturating_sub(1);
    shown.map(|width| u32::from(*width)).sum::<u32>() + gaps
}

/// What nodes and others call themselves must not break a line, nor steer a terminal.
fn one_line(text: &str) -> String {
    let invisible = |c: char| c.is_control() || reorders(c);
    text.chars().map(|c| if invisible(c) { ' ' } else { c }).collect()
}

/// Returns to how many letters ids can be cut so that each is still told from the others.
pub(super) fn distinct(ids: &[String]) -> usize {
    const SHORT: usize = 8;
    let mut sorted: Vec<_> = ids.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let alike =
        |pair: &[&str]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    sorted.windows(2).map(|pair| alike(pair) + 1).max().unwrap_or(0).max(SHORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 4]]) -> Table {
        let mut table = Table::new(&[
            Column::new("NODE", 0),
            Column::new("NAME", 0).cut(),
            Column::new("POINTS", 1).number(),
            Column::new("CONNECTED", 2),
            Column::extra("VERSION"),
        ]);
        for row in rows {
            table.row(row.iter().copied().chain(["1"]).map(str::to_owned));
        }
        table
    }

    const ROWS: [[&str; 4]; 3] = [
        ["ffr2lmbr", "attic", "12", "3 min ago"],
        ["kizkkcwi", "a machine with quite a long name", "-5", "just now"],
        ["ztrrvayn", "台所のコンピュータ", "1000", "20 days ago"],
    ];

    #[test]
    fn a_table_that_fits_is_whole() {
        let whole = "\
NODE      NAME                              POINTS  CONNECTED
ffr2lmbr  attic                                 12  3 min ago
kizkkcwi  a machine with quite a long name      -5  just now
ztrrvayn  台所のコンピュータ                  1000  20 days ago";
        assert_eq!(table(&ROWS).render(80), whole);
        let wide = table(&ROWS).render(u16::MAX);
        assert!(wide.lines().next().is_some_and(|line| line.ends_with("CONNECTED    VERSION")));
    }

    #[test]
    fn names_are_cut_before_columns_are_left_out() {
        let cut = "\
NODE      NAME            POINTS  CONNECTED
ffr2lmbr  attic               12  3 min ago
kizkkcwi  a machine wit…      -5  just now
ztrrvayn  台所のコンピ…     1000  20 days ago";
        assert_eq!(table(&ROWS).render(45), cut);
        let narrow = "\
NODE      NAME          POINTS
ffr2lmbr  attic             12
kizkkcwi  a machine w…      -5
ztrrvayn  台所のコン…     1000";
        assert_eq!(table(&ROWS).render(30), narrow);
        let narrowest = "\
NODE      NAME
ffr2lmbr  attic
kizkkcwi  a mach…
ztrrvayn  台所の…";
        assert_eq!(table(&ROWS).render(17), narrowest);
        // There is nothing left to leave out.
        assert!(table(&ROWS).render(1).starts_with("NODE"));
    }

    #[test]
    fn what_others_write_stays_in_its_cell() {
        let hostile = ["ffr2lmbr", "a\nb\x1b[31m\u{202e}c\td", "1", ""];
        let shown = table(&[hostile]).render(80);
        assert_eq!(shown.lines().count(), 2, "{shown:?}");
        let steers = |c: char| (c.is_control() && c != '\n') || reorders(c);
        assert!(!shown.contains(steers), "{shown:?}");
    }

    #[test]
    fn ids_are_as_short_as_they_can_be() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(distinct(&ids(&[])), 8);
        assert_eq!(distinct(&ids(&["abcdefgh1234", "abcdefgx1234"])), 8);
        assert_eq!(distinct(&ids(&["abcdefgh1234", "abcdefgh1299", "b"])), 11);
        assert_eq!(distinct(&ids(&["abcdefgh1234", "abcdefgh1234"])), 8, "it is one and the same");
    }
}
