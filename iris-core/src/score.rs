//! How likely a model finds the tokens of a text.
//!
//! Servers count in floating point, each in its own way. What is decided by these numbers must
//! come out the same everywhere, so they are turned into whole millionths once, where they are read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The natural logarithm of a probability, in millionths: never above zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct LogProb(i64);

/// Says why a number is no logarithm of a probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log probability is a number that is not above zero")]
pub struct LogProbError;

impl LogProb {
    /// What is certain.
    pub const CERTAIN: Self = Self(0);
    /// What counts as impossible: -9999, which servers write where they mean minus infinity.
    pub const IMPOSSIBLE: Self = Self(-9_999_000_000);

    const MICROS: f64 = 1e6;

    /// Reads what a server says, rounded to a millionth; what is less likely than
    /// [`IMPOSSIBLE`](Self::IMPOSSIBLE) counts as that.
    pub fn from_nats(nats: f64) -> Result<Self, LogProbError> {
        let micros = (nats * Self::MICROS).round();
        if micros.is_nan() || micros > 0.0 {
            return Err(LogProbError);
        }
        #[allow(clippy::cast_possible_truncation, reason = "a cast of a float ends at the bounds")]
        let whole = micros as i64;
        Ok(Self(whole.max(Self::IMPOSSIBLE.0)))
    }

    /// Returns millionths of a nat, from -9 999 000 000 to 0.
    pub const fn micros(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for LogProb {
    type Error = LogProbError;

    fn try_from(micros: i64) -> Result<Self, LogProbError> {
        if (Self::IMPOSSIBLE.0..=0).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(LogProbError)
        }
    }
}

impl From<LogProb> for i64 {
    fn from(logprob: LogProb) -> Self {
        logprob.0
    }
}

impl fmt::Display for LogProb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

impl fmt::Debug for LogProb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a model finds one token of a text, before it is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TokenScore {
    /// How likely the token is.
    pub logprob: LogProb,
    /// Its place among all tokens by likelihood; 1 for the likeliest. Some servers tell no more
    /// than that it is not the first, and say 2.
    pub rank: u32,
    /// How likely the likeliest token is.
    pub best_logprob: LogProb,
}

impl TokenScore {
    /// Returns how much likelier the likeliest token is, in millionths of a nat; never below zero
    /// where the best is the best.
    pub const fn gap(&self) -> i64 {
        self.best_logprob.0 - self.logprob.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_probability_is_refused() {
        for bad in [f64::NAN, f64::INFINITY, 1.0, 1e-6, 5.1e-7] {
            assert_eq!(LogProb::from_nats(bad), Err(LogProbError), "{bad}");
        }
        for bad in [1, i64::MAX, i64::MIN, LogProb::IMPOSSIBLE.micros() - 1] {
            assert_eq!(LogProb::try_from(bad), Err(LogProbError), "{bad}");
        }
    }

    #[test]
    fn numbers_are_rounded_to_millionths_and_end_where_servers_end() {
        for (nats, micros) in [
            (0.0, 0),
            (-0.0, 0),
            (4e-7, 0),
            (-0.123_456_7, -123_457),
            (-9999.0, -9_999_000_000),
            (-1e300, -9_999_000_000),
            (f64::NEG_INFINITY, -9_999_000_000),
        ] {
            assert_eq!(LogProb::from_nats(nats).map(LogProb::micros), Ok(micros), "{nats}");
        }
        let written = LogProb::from_nats(-12.05).unwrap();
        assert_eq!(
            (written.to_string(), LogProb::CERTAIN.to_string()),
            ("-12.050000".into(), "0.000000".into())
        );
        assert_eq!(serde_json::to_string(&written).unwrap(), "-12050000");
        assert!(serde_json::from_str::<LogProb>("1").is_err());
    }

    #[test]
    fn gap_is_zero_for_the_likeliest() {
        let score = |nats, best| TokenScore {
            logprob: LogProb::from_nats(nats).unwrap(),
            rank: 1,
            best_logprob: LogProb::from_nats(best).unwrap(),
        };
        assert_eq!(score(-0.5, -0.5).gap(), 0);
        assert_eq!(score(-1.5, -0.25).gap(), 1_250_000);
    }
}
