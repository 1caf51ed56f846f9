//! Random bytes of the operating system.

/// Draws `N` unpredictable bytes from the operating system, such as a nonce or a task id.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
