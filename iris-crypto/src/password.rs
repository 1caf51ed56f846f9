//! Passwords, and what is kept of them.
//!
//! People choose passwords, so what is kept must be slow to try and useless by itself: Argon2id
//! over 19 MiB with a random salt, and a pepper that lies outside of the database. Its text is the
//! one that others write (`$argon2id$v=19$m=...`), with `keyid=aXJpcw` where the pepper went in.
//!
//! Hashes of older systems, Argon2 without a pepper and bcrypt, are verified too, within bounds of
//! cost, since they come from files that somebody imports; [`Verdict::Right`] then says to hash
//! anew.
//!
//! How long a check takes would tell whether there is a hash, and an older system's from one of
//! here. So every check computes one hash of each [kind](HashKind) that the store holds, with its
//! own among them: the same work, whatever is found. An answer that waited for a set time would
//! have to wait for the slowest kind on the busiest machine, and would still tell by the load that
//! a check leaves for those beside it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::BASE64_NOPAD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::account_key::{LANES, MEMORY_KIB, PASSES};
use crate::random::random_bytes;
use crate::secret::Secret;

/// The fewest characters of a password.
pub const MIN_CHARACTERS: usize = 8;
/// The longest password, in bytes.
pub const MAX_LEN: usize = 1024;
/// The longest text of a hash, in bytes.
pub const MAX_HASH_LEN: usize = 256;

const SALT_LEN: usize = 16;
const OUTPUT_LEN: usize = 32;
/// Says that the pepper went into a hash: base64 of `iris`.
const KEY_ID: &str = ",keyid=aXJpcw";

/// What an imported Argon2 hash may cost: 128 MiB, and a GiB written in all.
const MAX_MEMORY_KIB: u32 = 128 << 10;
const MAX_WORK_KIB: u32 = 1 << 20;
const MAX_LANES: u32 = 16;
/// What an imported bcrypt hash may cost: 2^14 rounds, about a second.
const MIN_BCRYPT_COST: u32 = 4;
const MAX_BCRYPT_COST: u32 = 14;

/// A password, parsed where it is chosen: long enough and not too long. Every character counts,
/// spaces too.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

/// A password is too short or too long. The text itself is kept out of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a password has at least {MIN_CHARACTERS} characters and at most {MAX_LEN} bytes")]
pub struct PasswordError;

impl Password {
    /// Takes what somebody typed to prove himself: an older system may have taken a short one.
    pub fn typed(text: &str) -> Result<Self, PasswordError> {
        if text.len() <= MAX_LEN { Ok(Self(text.to_owned())) } else { Err(PasswordError) }
    }
}

impl FromStr for Password {
    type Err = PasswordError;

    fn from_str(text: &str) -> Result<Self, PasswordError> {
        let long_enough = text.chars().nth(MIN_CHARACTERS - 1).is_some();
        if long_enough { Self::typed(text) } else { Err(PasswordError) }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// Says why a text is no hash that can be verified here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// It is neither Argon2's text nor bcrypt's.
    #[error("a password's hash is $argon2id$v=19$..., $2a$..., $2b$... or $2y$...")]
    Unknown,
    /// Checking a password against it would take too long or too much memory.
    #[error(
        "a password's hash costs at most 128 MiB and a GiB of writing (argon2), or 2^14 rounds \
         (bcrypt)"
    )]
    TooCostly,
}

impl PasswordHash {
    /// Returns the hash's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PasswordHash {
    /// Returns what checking a password against it takes.
    pub fn kind(&self) -> HashKind {
        HashKind(Scheme::read(&self.0).map_or(CURRENT, |scheme| scheme.kind()))
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        Scheme::read(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// What computing a hash takes. All of one kind take equally long.
///
/// The text is like `bcrypt-10` or `argon2id-19456-2-1-32`: bcrypt's cost; Argon2's memory in KiB,
/// passes, lanes and bytes of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashKind(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Argon2 { algorithm: Algorithm, memory: u32, passes: u32, lanes: u32, output: usize },
    Bcrypt { cost: u32 },
}

/// The kind of the hashes that are made here.
const CURRENT: Kind = Kind::Argon2 {
    algorithm: Algorithm::Argon2id,
    memory: MEMORY_KIB,
    passes: PASSES,
    lanes: LANES,
    output: OUTPUT_LEN,
};

/// A text is no [`HashKind`] that is computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a kind of hash is like bcrypt-10 or argon2id-19456-2-1-32")]
pub struct HashKindError;

impl fmt::Display for HashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Bcrypt { cost } => write!(f, "bcrypt-{cost}"),
            Kind::Argon2 { algorithm, memory, passes, lanes, output } => {
                write!(f, "{algorithm}-{memory}-{passes}-{lanes}-{output}")
            }
        }
    }
}

impl FromStr for HashKind {
    type Err = HashKindError;

    fn from_str(text: &str) -> Result<Self, HashKindError> {
        let (name, numbers) = text.split_once('-').ok_or(HashKindError)?;
        let numbers: Result<Vec<u32>, _> = numbers.split('-').map(str::parse).collect();
        let numbers = numbers.map_err(|_| HashKindError)?;
        let kind = match numbers[..] {
            [cost] if name == "bcrypt" && (MIN_BCRYPT_COST..=MAX_BCRYPT_COST).contains(&cost) => {
                Kind::Bcrypt { cost }
            }
            [memory, passes, lanes, output] => {
                let algorithm = algorithm(name).ok_or(HashKindError)?;
                let output = output.try_into().map_err(|_| HashKindError)?;
                params(memory, passes, lanes, output).map_err(|_| HashKindError)?;
                Kind::Argon2 { algorithm, memory, passes, lanes, output }
            }
            _ => return Err(HashKindError),
        };
        // A number has several spellings, and a kind one.
        if Self(kind).to_string() == text { Ok(Self(kind)) } else { Err(HashKindError) }
    }
}

/// The kinds of hashes that a store holds: that of the hashes made here, and those of older systems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashKinds(BTreeSet<HashKind>);

/// There are as many kinds as there may be, since each costs its time with every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "passwords are hashed in at most {} ways; let the owners of others register anew",
    HashKinds::MOST
)]
pub struct HashKindsError;

impl HashKinds {
    /// The most kinds that there may be.
    pub const MOST: usize = 8;

    /// Adds a kind.
    pub fn insert(&mut self, kind: HashKind) -> Result<(), HashKindsError> {
        if self.0.contains(&kind) {
            return Ok(());
        }
        if self.0.len() >= Self::MOST {
            return Err(HashKindsError);
        }
        self.0.insert(kind);
        Ok(())
    }

    /// Adds those of `others` that there is room for.
    pub fn join(&mut self, others: &Self) {
        for kind in &others.0 {
            let _ = self.insert(*kind);
        }
    }

    /// Returns whether a kind is among them.
    pub fn contains(&self, kind: &HashKind) -> bool {
        self.0.contains(kind)
    }
}

impl Default for HashKinds {
    fn default() -> Self {
        Self([HashKind(CURRENT)].into())
    }
}

/// Whether a password is the one that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is another one.
    Wrong,
    /// It is the one.
    Right {
        /// Whether the hash is an older system's and should be replaced by a new one.
        needs_rehash: bool,
    },
}

/// The machine has not enough memory to hash now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not enough memory to hash a password")]
pub struct HashError;

/// Hashes passwords and verifies them.
///
/// Hashing blocks for about 20 ms and takes 19 MiB, verifying as long as one hash of each kind:
/// call both on a thread that may block, few at a time, and after the limits on attempts.
#[derive(Clone, Debug)]
pub struct Passwords {
    pepper: Secret,
}

impl Passwords {
    /// Derives the pepper from `secret`, without which no hash made here can be verified.
    pub fn new(secret: &Secret) -> Self {
        Self { pepper: secret.derive("iris/password/v1", b"") }
    }

    /// Hashes a password with a new salt.
    pub fn hash(&self, password: &Password) -> Result<PasswordHash, HashError> {
        let salt: [u8; SALT_LEN] = random_bytes();
        let output = ArgonHash::new(&salt).compute(&self.pepper, password)?;
        let (salt, output) = (BASE64_NOPAD.encode(&salt), BASE64_NOPAD.encode(&output));
        Ok(PasswordHash(format!(
            "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}{KEY_ID}${salt}${output}"
        )))
    }

    /// Compares a password with what was kept of one, or of none, which takes the same time: it
    /// computes one hash of each of `kinds`.
    ///
    /// The hash's own kind should be among them; where it is not, it takes longer.
    pub fn verify(
        &self,
        password: &Password,
        hash: Option<&PasswordHash>,
        kinds: &HashKinds,
    ) -> Result<Verdict, HashError> {
        let scheme = hash.and_then(|hash| Scheme::read(hash.as_str()).ok());
        let own = scheme.as_ref().map(|scheme| HashKind(scheme.kind()));
        let unknown = own.filter(|own| !kinds.contains(own));
        let mut verdict = Verdict::Wrong;
        for kind in kinds.0.iter().chain(unknown.as_ref()) {
            match scheme.as_ref().filter(|_| own == Some(*kind)) {
                Some(scheme) => verdict = self.compare(password, scheme)?,
                None => self.compute(password, *kind)?,
            }
        }
        Ok(verdict)
    }

    fn compare(&self, password: &Password, scheme: &Scheme<'_>) -> Result<Verdict, HashError> {
        match scheme {
            Scheme::Argon2(argon) => {
                let output = argon.compute(&self.pepper, password)?;
                let equal = bool::from(output.ct_eq(&argon.output));
                Ok(Verdict::new(equal, !argon.is_current()))
            }
            // Older systems cut passwords after 72 bytes, and so does this.
            Scheme::Bcrypt { text, .. } => {
                Ok(Verdict::new(bcrypt::verify(&password.0, text).unwrap_or(false), true))
            }
        }
    }

    /// Computes a hash of a kind, for nothing.
    fn compute(&self, password: &Password, HashKind(kind): HashKind) -> Result<(), HashError> {
        match kind {
            Kind::Argon2 { algorithm, memory, passes, lanes, output } => {
                let params = params(memory, passes, lanes, output).map_err(|_| HashError)?;
                let (salt, output) = (vec![0; SALT_LEN], Vec::new());
                let argon = ArgonHash { algorithm, params, peppered: true, salt, output };
                std::hint::black_box(
                    argon.compute(&self.pepper, password)?.ct_eq(&[0; OUTPUT_LEN]),
                );
            }
            Kind::Bcrypt { cost } => {
                let salt = [0; SALT_LEN];
                let _ = std::hint::black_box(bcrypt::hash_with_salt(&password.0, cost, salt));
            }
        }
        Ok(())
    }
}

impl Verdict {
    const fn new(right: bool, needs_rehash: bool) -> Self {
        if right { Self::Right { needs_rehash } } else { Self::Wrong }
    }
}

enum Scheme<'a> {
    Argon2(ArgonHash),
    Bcrypt { cost: u32, text: &'a str },
}

struct ArgonHash {
    algorithm: Algorithm,
    params: Params,
    peppered: bool,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl<'a> Scheme<'a> {
    fn read(text: &'a str) -> Result<Self, PasswordHashError> {
        if text.len() > MAX_HASH_LEN || !text.is_ascii() {
            return Err(PasswordHashError::Unknown);
        }
        let bcrypt = ["$2a$", "$2b$", "$2y$"].iter().find_map(|start| text.strip_prefix(start));
        match bcrypt {
            Some(rest) => bcrypt_cost(rest, text).map(|cost| Self::Bcrypt { cost, text }),
            None => ArgonHash::read(text).map(Self::Argon2),
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Argon2(argon) => argon.kind(),
            Self::Bcrypt { cost, .. } => Kind::Bcrypt { cost: *cost },
        }
    }
}

fn bcrypt_cost(rest: &str, text: &str) -> Result<u32, PasswordHashError> {
    let parts = text.parse::<bcrypt::HashParts>().map_err(|_| PasswordHashError::Unknown)?;
    let cost = parts.get_cost();
    // Two digits of cost, and 22 and 31 characters of salt and hash.
    if rest.len() != 2 + 1 + 22 + 31 || cost < MIN_BCRYPT_COST {
        return Err(PasswordHashError::Unknown);
    }
    if cost > MAX_BCRYPT_COST { Err(PasswordHashError::TooCostly) } else { Ok(cost) }
}

fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "argon2id" => Algorithm::Argon2id,
        "argon2i" => Algorithm::Argon2i,
        "argon2d" => Algorithm::Argon2d,
        _ => return None,
    })
}

/// Returns Argon2's costs, within what one hash may cost.
fn params(
    memory: u32,
    passes: u32,
    lanes: u32,
    output: usize,
) -> Result<Params, PasswordHashError> {
    use PasswordHashError::{TooCostly, Unknown};
    if memory > MAX_MEMORY_KIB
        || memory.checked_mul(passes).is_none_or(|work| work > MAX_WORK_KIB)
        || lanes > MAX_LANES
    {
        return Err(TooCostly);
    }
    // A short output would let wrong passwords in by chance.
    if !(16..=64).contains(&output) {
        return Err(Unknown);
    }
    Params::new(memory, passes, lanes, Some(output)).map_err(|_| Unknown)
}

impl ArgonHash {
    /// One that is computed as hashes are made here.
    fn new(salt: &[u8]) -> Self {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(OUTPUT_LEN));
        Self {
            algorithm: Algorithm::Argon2id,
            params: params.expect("within Argon2's limits"),
            peppered: true,
            salt: salt.to_vec(),
            output: Vec::new(),
        }
    }

    fn read(text: &str) -> Result<Self, PasswordHashError> {
        use PasswordHashError::Unknown;
        let mut parts = text.split('$');
        let mut next = || parts.next().ok_or(Unknown);
        let (before, algorithm, version) = (next()?, next()?, next()?);
        let (params, salt, output) = (next()?, next()?, next()?);
        if !before.is_empty() || version != "v=19" || parts.next().is_some() {
            return Err(Unknown);
        }
        let algorithm = self::algorithm(algorithm).ok_or(Unknown)?;
        let peppered = params.strip_suffix(KEY_ID);
        let [memory, passes, lanes] = costs(peppered.unwrap_or(params)).ok_or(Unknown)?;
        let decode = |text: &str| BASE64_NOPAD.decode(text.as_bytes()).map_err(|_| Unknown);
        let (salt, output) = (decode(salt)?, decode(output)?);
        let params = self::params(memory, passes, lanes, output.len())?;
        if !(8..=64).contains(&salt.len()) {
            return Err(Unknown);
        }
        Ok(Self { algorithm, params, peppered: peppered.is_some(), salt, output })
    }

    fn compute(
        &self,
        pepper: &Secret,
        password: &Password,
    ) -> Result<Zeroizing<Vec<u8>>, HashError> {
        let pepper: &[u8] = if self.peppered { pepper.reveal() } else { &[] };
        let params = self.params.clone();
        let length = params.output_len().unwrap_or(OUTPUT_LEN);
        let mut output = Zeroizing::new(vec![0; length]);
        Argon2::new_with_secret(pepper, self.algorithm, Version::V0x13, params)
            .and_then(|argon| {
                argon.hash_password_into(password.0.as_bytes(), &self.salt, &mut output)
            })
            .map_err(|_| HashError)?;
        Ok(output)
    }

    fn is_current(&self) -> bool {
        self.peppered && self.kind() == CURRENT
    }

    const fn kind(&self) -> Kind {
        Kind::Argon2 {
            algorithm: self.algorithm,
            memory: self.params.m_cost(),
            passes: self.params.t_cost(),
            lanes: self.params.p_cost(),
            output: self.output.len(),
        }
    }
}

/// Reads `m=...,t=...,p=...`.
fn costs(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split(',');
    let mut cost = |name: &str| {
        let digits = parts.next()?.strip_prefix(name)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse().ok() } else { None }
    };
    let costs = [cost("m=")?, cost("t=")?, cost("p=")?];
    parts.next().is_none().then_some(costs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(&Secret::from_bytes([7; 32]))
    }

    fn password(text: &str) -> Password {
        text.parse().unwrap()
    }

    fn verify(passwords: &Passwords, text: &str, hash: &PasswordHash) -> Verdict {
        passwords.verify(&password(text), Some(hash), &HashKinds::default()).unwrap()
    }

    #[test]
    fn password_is_verified_and_others_are_not() {
        let passwords = passwords();
        let hash = passwords.hash(&password("correct horse")).unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1,keyid=aXJpcw$"));
        assert_eq!(hash.as_str().parse().as_ref(), Ok(&hash));
        let right = verify(&passwords, "correct horse", &hash);
        assert_eq!(right, Verdict::Right { needs_rehash: false });
        for wrong in ["correct horsf", "correct horse ", "Correct horse"] {
            assert_eq!(verify(&passwords, wrong, &hash), Verdict::Wrong, "{wrong}");
        }
    }

    #[test]
    fn one_password_has_another_hash_each_time_and_none_without_the_pepper() {
        let hash = passwords().hash(&password("correct horse")).unwrap();
        assert_ne!(passwords().hash(&password("correct horse")).unwrap(), hash);
        let other = Passwords::new(&Secret::from_bytes([8; 32]));
        assert_eq!(verify(&other, "correct horse", &hash), Verdict::Wrong);
        let unmarked = hash.as_str().replace(KEY_ID, "").parse().unwrap();
        assert_eq!(verify(&passwords(), "correct horse", &unmarked), Verdict::Wrong);
    }

    /// The first is in PHP's manual, two are libxcrypt's, the last two those of Argon2's own tests.
    #[test]
    fn hashes_of_older_systems_are_verified_and_to_be_replaced() {
        for (text, hash) in [
            ("rasmuslerdorf", "$2y$07$BCryptRequires22Chrcte/VlQH0piJtjXl.0t1XkA8pw9dMXTpOq"),
            ("password", "$2a$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu"),
            ("rasmuslerdorf", "$2b$04$abcdefghijklmnopqrstuugglmLNoUUTchQNHFkRvCk8BmwkKbU4m"),
            (
                "password",
                "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                 CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            ),
            (
                "password",
                "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                 wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
            ),
        ] {
            let hash = hash.parse().unwrap();
            let right = verify(&passwords(), text, &hash);
            assert_eq!(right, Verdict::Right { needs_rehash: true }, "{text}");
            assert_eq!(verify(&passwords(), "rasmuslerdorg", &hash), Verdict::Wrong);
            let mut kinds = HashKinds::default();
            kinds.insert("argon2d-64-1-1-16".parse().unwrap()).unwrap();
            kinds.insert(hash.kind()).unwrap();
            let right = passwords().verify(&password(text), Some(&hash), &kinds);
            assert_eq!(right, Ok(Verdict::Right { needs_rehash: true }), "{text} among others");
            assert_eq!(passwords().verify(&password(text), None, &kinds), Ok(Verdict::Wrong));
        }
    }

    #[test]
    fn hashes_that_cost_too_much_or_are_none_are_refused() {
        use PasswordHashError::{TooCostly, Unknown};
        let (salt, hash) = ("c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        let argon = |costs: &str| format!("$argon2id$v=19${costs}${salt}${hash}");
        let bcrypt = "BCryptRequires22Chrcte/VlQH0piJtjXl.0t1XkA8pw9dMXTpOq";
        for (text, error) in [
            (argon("m=131073,t=1,p=1"), TooCostly),
            (argon("m=131072,t=9,p=1"), TooCostly),
            (argon("m=4294967295,t=4294967295,p=1"), TooCostly),
            (argon("m=65536,t=2,p=17"), TooCostly),
            (argon("m=65536,t=0,p=1"), Unknown),
            (argon("m=1,t=1,p=1"), Unknown),
            (argon("m=+65536,t=2,p=1"), Unknown),
            (argon("m=65536,t=2"), Unknown),
            (argon("m=65536,t=2,p=1,x=1"), Unknown),
            (argon("m=65536,t=2,p=1").replace("v=19", "v=16"), Unknown),
            (format!("{}$", argon("m=65536,t=2,p=1")), Unknown),
            (format!("$argon2id$v=19$m=65536,t=2,p=1${salt}$AAAA"), Unknown),
            (format!("$2y$15${bcrypt}"), TooCostly),
            (format!("$2y$31${bcrypt}"), TooCostly),
            (format!("$2y$03${bcrypt}"), Unknown),
            (format!("$2x$07${bcrypt}"), Unknown),
            (format!("$2y$07${}", &bcrypt[1..]), Unknown),
            ("5f4dcc3b5aa765d61d8327deb882cf99".to_owned(), Unknown),
            (String::new(), Unknown),
        ] {
            assert_eq!(text.parse::<PasswordHash>().err(), Some(error), "{text}");
        }
    }

    #[test]
    fn kinds_have_one_spelling_and_are_few() {
        let current = passwords().hash(&password("correct horse")).unwrap().kind();
        assert_eq!(current.to_string(), "argon2id-19456-2-1-32");
        for text in ["bcrypt-4", "bcrypt-14", "argon2id-19456-2-1-32", "argon2i-64-3-2-16"] {
            assert_eq!(text.parse::<HashKind>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "bcrypt",
            "bcrypt-3",
            "bcrypt-15",
            "bcrypt-04",
            "bcrypt-+4",
            "argon2id-64-1-1",
            "argon2x-64-1-1-32",
            "argon2id-64-1-1-15",
            "argon2id-131073-1-1-32",
            "argon2id-0-1-1-32",
        ] {
            assert_eq!(bad.parse::<HashKind>(), Err(HashKindError), "{bad}");
        }
        let mut kinds = HashKinds::default();
        for cost in 4..11 {
            assert_eq!(kinds.insert(format!("bcrypt-{cost}").parse().unwrap()), Ok(()));
        }
        assert_eq!(kinds.insert("bcrypt-11".parse().unwrap()), Err(HashKindsError));
        assert_eq!(kinds.insert(current), Ok(()), "it is among them");
    }

    #[test]
    fn password_has_its_limits_and_does_not_print() {
        let longest = "x".repeat(MAX_LEN);
        for good in ["12345678", "pässwört", "        ", &longest] {
            assert!(good.parse::<Password>().is_ok(), "{good}");
        }
        let too_long = "x".repeat(MAX_LEN + 1);
        for bad in ["", "1234567", "äöüßäöü", &too_long] {
            assert_eq!(bad.parse::<Password>().err(), Some(PasswordError), "{bad}");
        }
        let hash = passwords().hash(&password("correct horse")).unwrap();
        let printed = format!("{:?} {hash:?} {:?}", password("correct horse"), passwords());
        assert_eq!(printed, "Password(..) PasswordHash(..) Passwords { pepper: Secret(..) }");
    }

    proptest! {
        #[test]
        fn reading_anything_never_panics_and_keeps_its_spelling(text in prop_oneof![
            any::<String>(),
            "\\$2[abxy]\\$[0-9]{1,3}\\$[./A-Za-z0-9]{50,56}",
            "\\$argon2(id|i|d)\\$v=1[69]\\$m=[0-9]{1,11},t=[0-9]{1,3},p=[0-9]{1,3}(,keyid=aXJpcw)?\
             \\$[A-Za-z0-9+/]{8,24}\\$[A-Za-z0-9+/]{20,90}",
        ]) {
            if let Ok(hash) = text.parse::<PasswordHash>() {
                prop_assert_eq!(hash.as_str(), &text);
            }
        }
    }
}
