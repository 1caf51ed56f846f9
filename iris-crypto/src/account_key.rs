//! The 16-digit number that an account is known by.
//!
//! It is user name and password at once, drawn by the machine so that nobody picks a weak one: 53
//! bits. That is little enough to try them all offline, so a store never keeps the number but its
//! [index](AccountKey::index), which takes 19 MiB and about 20 ms to compute and a pepper that lies
//! outside the database. Online, the callers must limit attempts, over all accounts together: no
//! check digit tells a guess from a typing error.

use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::identity::{decode_exact, text_form};
use crate::random::random_bytes;
use crate::secret::Secret;

const DIGITS: usize = 16;
const LIMIT: u64 = 10_u64.pow(16);
/// The fewest bits that [`LIMIT`] fits in, so that about half of the numbers drawn are kept.
const BITS: u32 = u64::BITS - LIMIT.leading_zeros();

/// Argon2id's memory, in KiB: 19 MiB.
pub const MEMORY_KIB: u32 = 19_456;
/// Argon2id's passes over its memory.
pub const PASSES: u32 = 2;
/// Argon2id's lanes.
pub const LANES: u32 = 1;

const PARAMS: Params = match Params::new(MEMORY_KIB, PASSES, LANES, Some(32)) {
    Ok(params) => params,
    Err(_) => panic!("outside Argon2's limits"),
};

/// The number of an account. Leading zeros count.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct AccountKey {
    digits: [u8; DIGITS],
}

/// Says why a text is no account key. The text itself is kept out of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an account key is 16 digits, with spaces or dashes between them at will")]
pub struct AccountKeyError;

/// The machine has not enough memory to compute an index now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not enough memory to check an account key")]
pub struct IndexError;

impl AccountKey {
    /// Draws a new number, each of the 10^16 equally likely.
    pub fn generate() -> Self {
        loop {
            let number = u64::from_be_bytes(random_bytes()) >> (u64::BITS - BITS);
            if number < LIMIT {
                return Self::from_number(number);
            }
        }
    }

    fn from_number(mut number: u64) -> Self {
        let mut digits = [0; DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).expect("a digit is below 10");
            number /= 10;
        }
        Self { digits }
    }

    /// Shows the number: as `1234 5678 9012 3456`, or without spaces with `{:#}`.
    pub const fn reveal(&self) -> RevealedKey<'_> {
        RevealedKey(self)
    }

    /// Computes what the store keeps and looks up in the number's place: Argon2id of the digits
    /// with `pepper` as salt.
    ///
    /// Always the same for the same number and pepper. Blocks for about 20 ms and takes 19 MiB:
    /// call it on a thread that may block, few at a time, and after the limits on attempts.
    pub fn index(&self, pepper: &Secret) -> Result<AccountIndex, IndexError> {
        let mut index = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, PARAMS)
            .hash_password_into(&self.digits, pepper.reveal(), &mut index)
            .map_err(|_| IndexError)?;
        Ok(AccountIndex(index))
    }
}

impl FromStr for AccountKey {
    type Err = AccountKeyError;

    fn from_str(text: &str) -> Result<Self, AccountKeyError> {
        // Longer texts hold more separators than anybody types.
        if text.len() > 4 * DIGITS {
            return Err(AccountKeyError);
        }
        let mut key = Self { digits: [0; DIGITS] };
        let mut places = key.digits.iter_mut();
        for byte in text.bytes() {
            match byte {
                b'0'..=b'9' => *places.next().ok_or(AccountKeyError)? = byte,
                b' ' | b'-' => {}
                _ => return Err(AccountKeyError),
            }
        }
        if places.next().is_some() {
            return Err(AccountKeyError);
        }
        Ok(key)
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountKey(..)")
    }
}

/// An account key about to be shown to its owner.
#[derive(Clone, Copy)]
pub struct RevealedKey<'a>(&'a AccountKey);

impl fmt::Display for RevealedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, &digit) in self.0.digits.iter().enumerate() {
            if place > 0 && place % 4 == 0 && !f.alternate() {
                f.write_str(" ")?;
            }
            write!(f, "{}", char::from(digit))?;
        }
        Ok(())
    }
}

impl fmt::Debug for RevealedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RevealedKey(..)")
    }
}

/// What is kept of an account key. The text is hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountIndex([u8; 32]);

impl AccountIndex {
    /// Returns the index's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Says that a text is no [`AccountIndex`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an account's index is 64 hexadecimal digits")]
pub struct AccountIndexError;

impl FromStr for AccountIndex {
    type Err = AccountIndexError;

    fn from_str(text: &str) -> Result<Self, AccountIndexError> {
        decode_exact(&HEXLOWER, text).map(Self).ok_or(AccountIndexError)
    }
}

impl fmt::Display for AccountIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

text_form!(AccountIndex);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_is_shown_in_groups_and_read_back() {
        let key = AccountKey::from_number(123_456_789_012);
        assert_eq!(key.reveal().to_string(), "0000 1234 5678 9012");
        assert_eq!(format!("{:#}", key.reveal()), "0000123456789012");
        for text in ["0000 1234 5678 9012", "0000123456789012", "-0000-1234 5678-9012 "] {
            assert_eq!(text.parse::<AccountKey>().unwrap().digits, key.digits);
        }
    }

    #[test]
    fn anything_but_16_digits_is_refused() {
        let many_spaces = format!("{}1234567890123456", " ".repeat(49));
        let refused = [
            "",
            "123456789012345",
            "12345678901234567",
            "123456789012345x",
            "1234_5678_9012_3456",
            "1234\u{a0}5678 9012 3456",
            "1234567890123456\n",
            "\u{0661}234567890123456",
            &many_spaces,
        ];
        for text in refused {
            assert_eq!(text.parse::<AccountKey>().err(), Some(AccountKeyError), "{text:?}");
        }
    }

    #[test]
    fn drawn_keys_fill_the_whole_range() {
        let firsts: std::collections::BTreeSet<_> =
            (0..500).map(|_| AccountKey::generate().digits[0]).collect();
        assert_eq!(firsts, (b'0'..=b'9').collect());
        assert_eq!(AccountKey::from_number(LIMIT - 1).digits, [b'9'; 16]);
    }

    #[test]
    fn index_is_argon2id_of_digits_and_pepper() {
        let vector: serde_json::Value =
            serde_json::from_str(include_str!("../tests/vectors/account-index.json")).unwrap();
        let pepper = decode_exact(&HEXLOWER, vector["pepper"].as_str().unwrap()).unwrap();
        let key: AccountKey = vector["key"].as_str().unwrap().parse().unwrap();
        let index = key.index(&Secret::from_bytes(pepper)).unwrap();
        assert_eq!(index.to_string(), vector["index"].as_str().unwrap());
        assert_ne!(key.index(&Secret::from_bytes([0; 32])).unwrap(), index);
    }

    #[test]
    fn key_does_not_print() {
        let key = AccountKey::from_number(7);
        assert_eq!(format!("{key:?} {:?}", key.reveal()), "AccountKey(..) RevealedKey(..)");
    }

    proptest! {
        #[test]
        fn parsing_anything_never_panics(text: String) {
            let _ = text.parse::<AccountKey>();
        }
    }
}
