//! `LabeledExtract` and `LabeledExpand` of RFC 9180, section 4.

use hkdf::{Hkdf, HkdfExtract};
use sha2::Sha256;
use zeroize::Zeroizing;

/// `"KEM" | KEM_ID`.
pub(super) const KEM_SUITE: &[u8] = b"KEM\x00\x20";
/// `"HPKE" | KEM_ID | KDF_ID | AEAD_ID`.
pub(super) const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x02";

const VERSION: &[u8] = b"HPKE-v1";

/// Returns the extracted key, as bytes and ready to expand.
pub(super) fn extract(
    suite: &[u8],
    salt: &[u8],
    label: &[u8],
    key_material: &[u8],
) -> (Zeroizing<[u8; 32]>, Hkdf<Sha256>) {
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for part in [VERSION, suite, label, key_material] {
        extract.input_ikm(part);
    }
    let (prk, hkdf) = extract.finalize();
    (Zeroizing::new(prk.into()), hkdf)
}

/// Fills `out` with what `prk` expands to under `label` and the concatenated `info`.
pub(super) fn expand(
    suite: &[u8],
    prk: &Hkdf<Sha256>,
    label: &[u8],
    info: [&[u8]; 3],
    out: &mut [u8],
) {
    let length = u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes();
    let [first, second, third] = info;
    prk.expand_multi_info(&[&length, VERSION, suite, label, first, second, third], out)
        .expect("at most 255 blocks are expanded");
}

/// Makes 32 uniform bytes ready to expand.
pub(super) fn from_prk(prk: &[u8; 32]) -> Hkdf<Sha256> {
    Hkdf::from_prk(prk).expect("a hash's length is enough")
}
