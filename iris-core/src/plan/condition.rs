use super::Condition;
use super::vote::last_number;

impl Condition {
    /// Returns whether it holds of a step's output. Every member that is given has to.
    pub(super) fn holds(&self, output: &str) -> bool {
        let plain = |text: &str| text.trim().to_lowercase();
        let output_plain = plain(output);
        let number = || last_number(output);
        let holds = self.contains.as_ref().is_none_or(|text| output_plain.contains(&plain(text)))
            && self.equals.as_ref().is_none_or(|text| output_plain == plain(text))
            && self.above.is_none_or(|least| number().is_some_and(|number| number > least))
            && self.below.is_none_or(|most| number().is_some_and(|number| number < most));
        holds != self.not
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition() -> Condition {
        let step = "triage".parse().unwrap();
        Condition { step, contains: None, equals: None, above: None, below: None, not: false }
    }

    #[test]
    fn texts_are_compared_without_case_and_surrounding_space() {
        let contains = Condition { contains: Some("Urgent".to_owned()), ..condition() };
        assert!(contains.holds("this is URGENT!") && !contains.holds("this is not"));
        let equals = Condition { equals: Some("yes".to_owned()), ..condition() };
        assert!(equals.holds(" Yes\n") && !equals.holds("yes, sir"));
        assert!(!Condition { not: true, ..equals }.holds("yes"));
    }

    #[test]
    fn numbers_are_read_out_of_the_text() {
        let between = Condition { above: Some(2.0), below: Some(10.0), ..condition() };
        assert!(between.holds("severity 7") && !between.holds("severity 10"));
        assert!(!between.holds("severe"));
        assert!(!between.holds(""));
    }
}
