//! Finds a secret in bytes, in every form in which programs commonly write it.

use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};

/// Something that must not be found.
pub(crate) struct Secret {
    name: String,
    forms: Vec<(String, Vec<u8>)>,
}

impl Secret {
    /// A secret text.
    pub(crate) fn text(name: &str, text: &str) -> Self {
        let mut secret = Self::bytes(name, text.as_bytes());
        let utf16 = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect();
        secret.forms.push(("UTF-16, little-endian".to_owned(), utf16(u16::to_le_bytes)));
        secret.forms.push(("UTF-16, big-endian".to_owned(), utf16(u16::to_be_bytes)));
        secret
    }

    /// Secret bytes.
    pub(crate) fn bytes(name: &str, bytes: &[u8]) -> Self {
        let mut forms = vec![("as it is".to_owned(), bytes.to_vec())];
        let encodings = [
            ("hexadecimal", &HEXLOWER, 1, 2),
            ("hexadecimal, capital", &HEXUPPER, 1, 2),
            ("base64", &BASE64_NOPAD, 3, 4),
            ("base64 for URLs", &BASE64URL_NOPAD, 3, 4),
            ("base32", &BASE32_NOPAD, 5, 8),
        ];
        for (encoding, coder, block, letters) in encodings {
            for offset in 0..block {
                let form = encoded(coder, bytes, offset, block, letters);
                if encoding == "base32" {
                    forms.push((format!("base32 in small letters at {offset}"), lower(&form)));
                }
                forms.push((format!("{encoding} at {offset}"), form));
            }
        }
        Self { name: name.to_owned(), forms }
    }

    /// Returns the form in which the secret is in `bytes`, if it is.
    fn form_in(&self, bytes: &[u8]) -> Option<&str> {
        self.forms.iter().find(|(_, form)| contains(bytes, form)).map(|(name, _)| name.as_str())
    }
}

/// Returns whether `secret` is in `bytes`, in any form.
pub(crate) fn finds(secret: &Secret, bytes: &[u8]) -> bool {
    secret.form_in(bytes).is_some()
}

/// Fails if one of `secrets` is in one of `places`.
pub(crate) fn assert_absent(secrets: &[Secret], places: &[(&str, Vec<u8>)]) {
    for (place, bytes) in places {
        assert!(!bytes.is_empty(), "nothing was found at all in {place}");
        for secret in secrets {
            let form = secret.form_in(bytes);
            assert_eq!(form, None, "{} is in {place}", secret.name);
        }
    }
}

/// Encodes `bytes` as if `offset` others stood before them, and leaves out what is not theirs
/// alone.
fn encoded(coder: &Encoding, bytes: &[u8], offset: usize, block: usize, letters: usize) -> Vec<u8> {
    let text = coder.encode(&[&[0].repeat(offset), bytes].concat());
    let first = (offset * letters).div_ceil(block);
    let end = (offset + bytes.len()) * letters / block;
    text.as_bytes()[first..end].to_vec()
}

fn lower(text: &[u8]) -> Vec<u8> {
    text.to_ascii_lowercase()
}

fn contains(bytes: &[u8], form: &[u8]) -> bool {
    let (first, rest) = form.split_first().expect("a secret is not empty");
    let mut left = bytes;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}
