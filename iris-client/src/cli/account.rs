//! `iris account` and `iris key`.

use std::io::{self, IsTerminal};

use iris_protocol::rest::{KeyRequest, KeyTerms, Secret};

use super::args::{Json, NewKey};
use super::failure::Failure;
use super::read_input;
use super::terminal::{Output, remark};
use crate::client::Client;

/// Opens an account and prints its digits.
pub(super) async fn open(
    client: &Client,
    format: &Json,
    output: &mut Output,
) -> Result<(), Failure> {
    let account = client.accounts().generate(None).await?;
    if format.json {
        return Ok(output.json(&account)?);
    }
    output.line(account.account_key.expose())?;
    remark("write these digits down: they are your account, and nobody can recover them");
    remark("next: iris key new");
    Ok(())
}

/// `iris key new`, with the account's digits at hand.
pub(super) struct Job {
    request: KeyRequest,
    format: Json,
}

impl Job {
    pub(super) fn prepare(args: &NewKey) -> Result<Self, Failure> {
        let request = KeyRequest {
            account_key: Some(account_key()?),
            scope: args.scope,
            label: args.label.clone(),
            terms: KeyTerms::default(),
        };
        Ok(Self { request, format: args.output.clone() })
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let key = client.keys().create(&self.request).await?;
        if self.format.json {
            return Ok(output.json(&key)?);
        }
        output.line(key.key.expose())?;
        remark("this key is shown once; programs read it from IRIS_API_KEY");
        Ok(())
    }
}

fn account_key() -> Result<Secret, Failure> {
    let set = std::env::var("IRIS_ACCOUNT_KEY").ok().filter(|key| !key.is_empty());
    let text = match set {
        Some(text) => text,
        None if io::stdin().is_terminal() => {
            remark("your account's 16 digits, please (set IRIS_ACCOUNT_KEY to skip this):");
            let mut line = String::new();
            io::stdin().read_line(&mut line).map_err(|error| {
                Failure::usage(format!("standard input cannot be read: {error}"))
            })?;
            line
        }
        None => read_input()?,
    };
    let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-' | '\n' | '\r')).collect();
    if digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(Secret::new(digits))
    } else {
        Err(Failure::usage("an account key has 16 digits; spaces and dashes may stand between"))
    }
}
