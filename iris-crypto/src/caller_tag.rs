//! What owners of nodes know callers by.
//!
//! A tag is the caller's account, encrypted as one block of AES-256 under a key for the owner and the
//! month: `HKDF(secret, "iris/caller-tag/v1", owner | month u32)`. As a permutation of accounts it
//! needs no table: whoever has the secret finds the account of any tag, and nobody else anything.

use aes_gcm::aes::Aes256;
use aes_gcm::aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use iris_core::id::CallerTag;
use iris_core::{AccountId, Epoch};

use crate::secret::Secret;

const PURPOSE: &str = "iris/caller-tag/v1";

/// Makes and reads the tags of a network's callers.
#[derive(Clone, Debug)]
pub struct CallerTags {
    secret: Secret,
}

impl CallerTags {
    /// Makes those that belong to `secret`.
    pub fn new(secret: &Secret) -> Self {
        Self { secret: secret.clone() }
    }

    /// Returns what the nodes of `owner` know `caller` by in `month`.
    pub fn tag(&self, owner: &AccountId, caller: &AccountId, month: Epoch) -> CallerTag {
        let mut block = (*caller.as_bytes()).into();
        self.cipher(owner, month).encrypt_block(&mut block);
        CallerTag::new(month.number(), block.into())
    }

    /// Returns whom `owner` means by a tag of `now` or of one of the fifteen months before.
    ///
    /// A tag that was made up, or another owner's, gives an account that nobody has.
    pub fn caller(&self, owner: &AccountId, tag: &CallerTag, now: Epoch) -> AccountId {
        let mut month = now;
        while month.number() % CallerTag::MONTHS != tag.month() && month > Epoch::FIRST {
            month = month.previous();
        }
        let mut block = (*tag.code()).into();
        self.cipher(owner, month).decrypt_block(&mut block);
        AccountId::from_bytes(block.into())
    }

    fn cipher(&self, owner: &AccountId, month: Epoch) -> Aes256 {
        let mut context = [0; 20];
        context[..16].copy_from_slice(owner.as_bytes());
        context[16..].copy_from_slice(&month.number().to_be_bytes());
        Aes256::new(self.secret.derive(PURPOSE, &context).reveal().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn account(byte: u8) -> AccountId {
        AccountId::from_bytes([byte; 16])
    }

    #[test]
    fn a_tag_leads_back_to_its_account_for_sixteen_months() {
        let tags = CallerTags::new(&Secret::from_bytes([7; 32]));
        let (owner, caller) = (account(1), account(2));
        let made: Epoch = "2026-11".parse().unwrap();
        let tag = tags.tag(&owner, &caller, made);
        assert_eq!(tag, tags.tag(&owner, &caller, made), "one caller is one tag");
        let mut now = made;
        for _ in 0..16 {
            assert_eq!(tags.caller(&owner, &tag, now), caller, "{now}");
            now = now.next();
        }
        assert_ne!(tags.caller(&owner, &tag, now), caller);
    }

    #[test]
    fn tags_of_owners_months_and_callers_have_nothing_in_common() {
        let tags = CallerTags::new(&Secret::from_bytes([7; 32]));
        let month: Epoch = "2026-11".parse().unwrap();
        let tag = tags.tag(&account(1), &account(2), month);
        for other in [
            tags.tag(&account(3), &account(2), month),
            tags.tag(&account(1), &account(4), month),
            tags.tag(&account(1), &account(2), month.next()),
            CallerTags::new(&Secret::from_bytes([8; 32])).tag(&account(1), &account(2), month),
        ] {
            assert_ne!(other.code(), tag.code());
        }
        assert_ne!(tags.caller(&account(3), &tag, month), account(2), "it is another owner's");
    }
}
