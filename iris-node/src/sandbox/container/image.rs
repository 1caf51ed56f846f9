use std::fmt;
use std::str::FromStr;

/// An image that is named by what is in it, so that it is the same one for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedImage(String);

/// Says how an image is to be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" may be another image tomorrow: name it by its digest, as in name@sha256:... or \
     sha256:...; `docker pull NAME` prints it, and `docker images --digests` lists those that are \
     here (podman has the same commands)"
)]
pub struct PinError(String);

/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;

impl PinnedImage {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PinnedImage {
    type Err = PinError;

    fn from_str(name: &str) -> Result<Self, PinError> {
        let (image, digest) = name.split_once('@').unwrap_or(("", name));
        let is_name = |image: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
            image.bytes().all(fits) && !image.starts_with(['-', '/', '.', ':'])
        };
        let is_digest = digest.strip_prefix("sha256:").is_some_and(|digits| {
            digits.len() == DIGITS
                && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        let is_named = !image.is_empty() || !name.contains('@');
        if is_digest && is_named && is_name(image) {
            Ok(Self(name.to_owned()))
        } else {
            Err(PinError(name.to_owned()))
        }
    }
}

impl fmt::Display for PinnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_by_what_is_in_them() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for name in [
            digest.clone(),
            format!("ghcr.io/ggml-org/llama.cpp:server@{digest}"),
            format!("localhost:5000/a/b@{digest}"),
        ] {
            assert_eq!(name.parse::<PinnedImage>().unwrap().as_str(), name);
        }
        for name in [
            "ghcr.io/ggml-org/llama.cpp:server".to_owned(),
            "vllm@latest".to_owned(),
            format!("@{digest}"),
            format!("../images@{digest}"),
            format!("a?b@{digest}"),
            digest.to_uppercase(),
            digest[..70].to_owned(),
            String::new(),
        ] {
            let error = name.parse::<PinnedImage>().unwrap_err().to_string();
            assert!(error.contains("docker pull"), "{error}");
        }
    }
}
