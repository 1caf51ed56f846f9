//! What holds for any text that should be a coordinator's address; shared by the tests and the
//! fuzz targets.

use super::CoordinatorUrl;

/// An address is refused, or is one that means the same when it is written out.
pub fn address(text: &str) {
    let Ok(url) = text.parse::<CoordinatorUrl>() else { return };
    let written = url.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&url), "{text:?}");
    assert!(!written.contains(|c: char| c.is_whitespace() || c.is_control()));
    assert!(!url.http_base().contains('@'));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_mean_the_same_when_written_out(
            text in "(wss?|https?|WSS|ftp)://[a-zA-Z0-9.:@\\[\\]-]{0,14}(/nodes/connect|/a/?)?[?#]?",
            any in any::<String>(),
        ) {
            super::address(&text);
            super::address(&any);
        }
    }
}
