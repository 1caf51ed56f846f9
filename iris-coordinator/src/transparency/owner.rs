use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use iris_core::{AccountId, Timestamp};
use iris_crypto::Secret;
use iris_protocol::text::Label;

/// The tags by which a roster tells nodes of one owner from those of others.
///
/// A tag names an account to nobody but the coordinator. It changes with each calendar month, so
/// that what an owner has connected cannot be followed for long.
pub(super) struct Owners {
    key: Secret,
}

impl Owners {
    pub(super) fn new(secret: &Secret) -> Self {
        Self { key: secret.derive("iris/roster/owner/v1", &[]) }
    }

    /// Returns what tags accounts at `now`.
    pub(super) fn at(&self, now: Timestamp) -> Tags {
        Tags { key: self.key.derive("month", month(now).as_bytes()), known: BTreeMap::new() }
    }
}

/// The tags of one month.
pub(super) struct Tags {
    key: Secret,
    known: BTreeMap<AccountId, Label<32>>,
}

impl Tags {
    pub(super) fn of(&mut self, owner: AccountId) -> Label<32> {
        let tag = || {
            let tag = self.key.derive("account", owner.to_string().as_bytes());
            let text = HEXLOWER.encode(&tag.reveal()[..16]);
            text.parse().expect("32 hexadecimal digits are a label")
        };
        self.known.entry(owner).or_insert_with(tag).clone()
    }
}

/// Returns the calendar month, in UTC, such as `2026-11`.
fn month(now: Timestamp) -> String {
    let days = now.as_secs() / 86_400;
    // Years are counted from the March before 1 January 1970 less 1970 years, so that the day
    // that leap years add is the last one of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_first = (5 * day + 2) / 153;
    let month = if march_first < 10 { march_first + 3 } else { march_first - 9 };
    format!("{:04}-{month:02}", era * 400 + year + u64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        for (secs, expected) in [
            (0, "1970-01"),
            (951_782_399, "2000-02"),
            (951_868_799, "2000-02"),
            (951_868_800, "2000-03"),
            (1_709_164_800, "2024-02"),
            (1_709_251_200, "2024-03"),
            (1_798_761_599, "2026-12"),
            (1_798_761_600, "2027-01"),
            (4_107_542_400, "2100-03"),
            (4_107_542_399, "2100-02"),
        ] {
            assert_eq!(month(at(secs)), expected, "{secs}");
        }
    }

    #[test]
    fn tag_is_the_owners_for_a_month() {
        let owners = Owners::new(&Secret::from_bytes([7; 32]));
        let [one, two] = [1, 2].map(|byte| AccountId::from_bytes([byte; 16]));
        let mut december = owners.at(at(1_798_761_599));
        let tag = december.of(one);
        assert_eq!(tag.as_str().len(), 32);
        assert_eq!(december.of(one), tag);
        assert_ne!(december.of(two), tag);
        assert_eq!(owners.at(at(1_797_000_000)).of(one), tag);
        assert_ne!(owners.at(at(1_798_761_600)).of(one), tag);
        let other = Owners::new(&Secret::from_bytes([8; 32]));
        assert_ne!(other.at(at(1_798_761_599)).of(one), tag);
    }
}
