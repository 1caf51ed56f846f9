//! How weights are stored, by the names that model servers and files give it.

/// What storing a model's weights in fewer bits leaves of it, and how much room it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// How its name begins, in capitals and with `_` between the parts.
    pub name: &'static str,
    /// At how many of a thousand positions the likeliest token is that of the full weights.
    pub agreement: u16,
    /// How many bits a weight takes on the average of a whole model, in hundredths.
    pub hundredths_of_bits: u16,
}

/// Names that say how weights were made small, and not in how many bits: four, unless told.
const METHODS: [&str; 4] = ["AWQ", "GPTQ", "BNB", "AUTOROUND"];
/// Names of a mixture, beside which that of its other part says nothing.
const MIXTURES: [&str; 2] = ["MXFP4", "NVFP4"];
/// Names that stand for whole families here, and are no part of a model's name by themselves.
const ONLY_FAMILIES: [&str; 5] = ["Q1", "TQ", "IQ1", "IQ2", "IQ3"];

impl Quantization {
    /// What a model counts as that does not say how its weights are stored: the files that local
    /// model servers offer first, for which the seeds' borders were written.
    pub const USUAL: Self = Self::new("Q4_K", 919, 489);

    /// The ways that model servers name. Of two that fit a name the longer one counts.
    ///
    /// The agreement of `F16`, `Q8`, `Q6_K`, `Q4_K` and `Q2_K` is what llama.cpp published for
    /// Llama 3 8B ("same top token"). Those of five and three bits lie between their neighbours
    /// as the errors of the probabilities do in the same table. Four-bit forms of other projects
    /// count as the usual one.
    ///
    /// The bits are those of whole files of Llama 3.1 8B, which keep some of their weights in
    /// more: from the table in llama.cpp's `tools/quantize/README.md`, and for those that it lacks
    /// from the sizes that `llama-quantize --help` prints. `_L` and `_XL` beyond those are about
    /// what the files of that model take which others make. Forms of other projects take their own
    /// bits and a scale of 16 bits for each group of 32 to 128 weights.
    pub const KNOWN: &'static [Self] = &[
        Self::new("F32", 1000, 3200),
        Self::new("FP32", 1000, 3200),
        Self::new("F16", 997, 1600),
        Self::new("FP16", 997, 1600),
        Self::new("BF16", 997, 1600),
        Self::new("Q8", 977, 850),
        Self::new("Q8_0", 977, 850),
        Self::new("Q8_K_XL", 977, 1010),
        Self::new("FP8", 977, 800),
        Self::new("F8", 977, 800),
        Self::new("MXFP8", 977, 825),
        Self::new("INT8", 977, 850),
        Self::new("W8A8", 977, 850),
        Self::new("W8A16", 977, 850),
        Self::new("8BIT", 977, 850),
        Self::new("8_BIT", 977, 850),
        Self::new("Q6", 960, 656),
        Self::new("Q6_K", 960, 656),
        Self::new("Q6_K_L", 960, 682),
        Self::new("Q6_K_XL", 960, 750),
        Self::new("6BIT", 960, 650),
        Self::new("6_BIT", 960, 650),
        Self::new("Q5", 948, 570),
        Self::new("Q5_0", 948, 557),
        Self::new("Q5_1", 948, 604),
        Self::new("Q5_K", 948, 570),
        Self::new("Q5_K_S", 948, 557),
        Self::new("Q5_K_M", 948, 570),
        Self::new("Q5_K_L", 948, 604),
        Self::new("Q5_K_XL", 948, 575),
        Self::new("5BIT", 948, 550),
        Self::new("5_BIT", 948, 550),
        Self::USUAL,
        Self::new("Q4_K_S", 919, 467),
        Self::new("Q4_K_M", 919, 489),
        Self::new("Q4_K_L", 919, 529),
        Self::new("Q4_K_XL", 919, 500),
        Self::new("Q4", 919, 464),
        Self::new("Q4_0", 919, 464),
        Self::new("Q4_1", 919, 511),
        Self::new("Q4F16", 919, 450),
        Self::new("IQ4", 919, 468),
        Self::new("IQ4_XS", 919, 446),
        Self::new("IQ4_NL", 919, 468),
        Self::new("MXFP4", 919, 425),
        Self::new("NVFP4", 919, 450),
        Self::new("FP4", 919, 450),
        Self::new("INT4", 919, 450),
        Self::new("W4A16", 919, 450),
        Self::new("4BIT", 919, 450),
        Self::new("4_BIT", 919, 450),
        Self::new("AWQ", 919, 450),
        Self::new("GPTQ", 919, 450),
        Self::new("BNB", 919, 450),
        Self::new("AUTOROUND", 919, 450),
        Self::new("Q3", 857, 400),
        Self::new("Q3_K", 857, 400),
        Self::new("Q3_K_S", 857, 364),
        Self::new("Q3_K_M", 857, 400),
        Self::new("Q3_K_L", 857, 430),
        Self::new("Q3_K_XL", 857, 476),
        Self::new("IQ3", 857, 376),
        Self::new("IQ3_XXS", 857, 325),
        Self::new("IQ3_XS", 857, 350),
        Self::new("IQ3_S", 857, 366),
        Self::new("IQ3_M", 857, 376),
        Self::new("3BIT", 857, 350),
        Self::new("3_BIT", 857, 350),
        Self::new("Q2", 711, 316),
        Self::new("Q2_K", 711, 316),
        Self::new("Q2_K_S", 711, 297),
        Self::new("Q2_K_L", 711, 368),
        Self::new("Q2_K_XL", 711, 340),
        Self::new("IQ2", 711, 293),
        Self::new("IQ2_XXS", 711, 238),
        Self::new("IQ2_XS", 711, 259),
        Self::new("IQ2_S", 711, 274),
        Self::new("IQ2_M", 711, 293),
        Self::new("2BIT", 711, 250),
        Self::new("2_BIT", 711, 250),
        Self::new("Q1", 711, 200),
        Self::new("IQ1", 711, 215),
        Self::new("IQ1_S", 711, 200),
        Self::new("IQ1_M", 711, 215),
        Self::new("TQ", 711, 206),
        Self::new("TQ1_0", 711, 169),
        Self::new("TQ2_0", 711, 206),
    ];

    /// Names a way to store weights.
    pub const fn new(name: &'static str, agreement: u16, hundredths_of_bits: u16) -> Self {
        Self { name, agreement, hundredths_of_bits }
    }

    /// Returns the way that is called `name`, or begins as one does; `None` where none does.
    ///
    /// ```
    /// use iris_core::quantization::Quantization;
    ///
    /// let stored = Quantization::of("q4_K_M").unwrap();
    /// assert_eq!((stored.name, stored.hundredths_of_bits), ("Q4_K_M", 489));
    /// assert_eq!(Quantization::of("EXL3"), None);
    /// ```
    pub fn of(name: &str) -> Option<Self> {
        Self::among(Self::KNOWN, name)
    }

    /// Returns the one of `known` with the longest name that `name` begins with.
    pub(crate) fn among(known: &[Self], name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase().replace('-', "_");
        let fits = known.iter().filter(|known| name.starts_with(known.name));
        fits.max_by_key(|known| known.name.len()).copied()
    }

    /// Finds what the words of a model's name tell, as model servers write it.
    pub(crate) fn in_words(words: &[&str]) -> Option<String> {
        let found: Vec<Self> = Self::occurrences(words);
        let last = |among: &[&str]| found.iter().rfind(|one| among.contains(&one.name));
        if let Some(mixture) = last(&MIXTURES) {
            return Some(mixture.told());
        }
        let bits = found.iter().rfind(|one| !METHODS.contains(&one.name));
        match (last(&METHODS), bits) {
            (Some(_), Some(bits)) if !(400..=550).contains(&bits.hundredths_of_bits) => {
                Some(bits.told())
            }
            (Some(method), _) => Some(method.told()),
            (None, bits) => bits.map(|bits| bits.told()),
        }
    }

    /// Returns those that stand in `words`, the longest from each place.
    fn occurrences(words: &[&str]) -> Vec<Self> {
        let stands = |one: &Self, at: usize| {
            let mut rest = words[at..].iter();
            one.name
                .split('_')
                .all(|part| rest.next().is_some_and(|w| w.eq_ignore_ascii_case(part)))
        };
        let mut found = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let here = Self::KNOWN.iter().filter(|one| !ONLY_FAMILIES.contains(&one.name));
            let longest = here.filter(|one| stands(one, at)).max_by_key(|one| one.name.len());
            found.extend(longest.copied());
            at += longest.map_or(1, |one| one.name.split('_').count());
        }
        found
    }

    /// Returns the name as servers write it.
    fn told(self) -> String {
        if self.name.ends_with("BIT") {
            return self.name.replace('_', "").to_ascii_lowercase();
        }
        self.name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_written_as_they_are_compared() {
        let mut names: Vec<_> = Quantization::KNOWN.iter().map(|one| one.name).collect();
        assert!(names.iter().all(|name| *name == name.to_ascii_uppercase() && !name.contains('-')));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn more_bits_never_agree_less_among_the_usual_files() {
        let order = ["F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "IQ1_S"];
        let all: Vec<_> = order.iter().map(|name| Quantization::of(name).unwrap()).collect();
        assert!(all.is_sorted_by(|more, less| more.hundredths_of_bits > less.hundredths_of_bits));
        assert!(all.is_sorted_by(|more, less| more.agreement >= less.agreement));
    }
}
