//! What an operator does beside serving: opening accounts, making keys, and finding out what is
//! wrong.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;

use iris_coordinator::http::Server;
use iris_coordinator::{
    AccountError, Accounts, Coordinator, Giver, NewKey, StartError, Transparency,
};
use iris_core::store::MemoryStore;
use iris_crypto::keyfile::{KeyFileError, Purpose, SecretFile};
use iris_crypto::password::PasswordHashError;
use iris_crypto::{Identity, Secret};
use iris_protocol::rest;

use crate::books::{self, Books};
use crate::cli;
use crate::failure::{Exit, Failure};
use crate::settings::Settings;

/// Most of standard input that is read for an account key.
const MAX_INPUT: u64 = 256;
/// Longest line of a file of old logins.
const MAX_LINE: u64 = 4096;

/// Opens an account and prints its digits to standard output, the rest to standard error.
pub(crate) async fn new_account(settings: &Settings) -> Result<(), Failure> {
    let created = accounts(settings).await?.create_account().await.map_err(refused)?;
    say(created.account_key.expose())?;
    eprintln!("account {}", created.account);
    eprintln!("Write the digits down: they are the account, and nobody can recover them.");
    Ok(())
}

/// Makes an API key and prints it to standard output.
pub(crate) async fn new_key(settings: &Settings, key: &cli::NewKey) -> Result<(), Failure> {
    let new = NewKey { label: key.label.clone(), ..key.scope.into() };
    let created = if let Some(account) = key.owner.account {
        accounts(settings).await?.create_key_for(account, new).await
    } else {
        let typed = read_input()?;
        accounts(settings).await?.create_key(typed.expose(), new, None).await
    };
    let created = created.map_err(refused)?;
    say(created.key.expose())?;
    eprintln!("This key is shown once; programs read it from IRIS_API_KEY.");
    Ok(())
}

/// Writes down that an account's fee was paid.
pub(crate) async fn pay(settings: &Settings, payment: &cli::Payment) -> Result<(), Failure> {
    let fee = rest::FeeRequest { months: payment.months, reference: payment.reference.clone() };
    let accounts = accounts(settings).await?;
    let membership = accounts.pay(&payment.account, &fee).await.map_err(refused)?;
    match membership.until {
        Some(until) => say(&format!("paid until {until} (seconds since 1970)")),
        None => say("written down before; the time it paid for is over"),
    }
}

/// Makes an invitation and prints it to standard output.
pub(crate) async fn invite(settings: &Settings, new: &cli::NewInvitation) -> Result<(), Failure> {
    let request = rest::InvitationRequest {
        uses: Some(new.uses),
        valid_secs: Some(u64::from(new.days) * 86_400),
        label: new.label.clone(),
    };
    let accounts = accounts(settings).await?;
    let created = accounts.invite(Giver::Operator, request).await.map_err(refused)?;
    say(created.invitation.expose())?;
    eprintln!("invitation {}, shown once: send it to whom it is for", created.summary.id);
    Ok(())
}

/// Lists the operator's invitations.
pub(crate) async fn invitations(settings: &Settings) -> Result<(), Failure> {
    let accounts = accounts(settings).await?;
    for invitation in accounts.invitations(Giver::Operator).await.map_err(Failure::books)? {
        let rest::InvitationSummary { id, label, expires, uses_left, .. } = invitation;
        let label = label.unwrap_or_default();
        say(format!("{id}  opens {uses_left} more, until {expires}  {label}").trim_end())?;
    }
    Ok(())
}

/// Takes an invitation of the operator back.
pub(crate) async fn uninvite(settings: &Settings, id: &rest::KeyId) -> Result<(), Failure> {
    let accounts = accounts(settings).await?;
    let taken = accounts.take_back_invitation(Giver::Operator, id).await;
    if taken.map_err(Failure::books)? {
        say("taken back")
    } else {
        Err(Failure::new(Exit::Account, "there is no such invitation of the operator's"))
    }
}

/// A login of an older system.
#[derive(serde::Deserialize)]
struct OldLogin {
    email: String,
    password_hash: String,
}

/// Opens an account for each line of a file, and says what became of them.
pub(crate) async fn import(settings: &Settings, file: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(Exit::Settings, format!("{} cannot be read: {error}", file.display()))
    };
    let mut lines = BufReader::new(File::open(file).map_err(failed)?);
    let accounts = accounts(settings).await?;
    let (mut opened, mut known, mut wrong) = (0_u64, 0_u64, 0_u64);
    for number in 1_u64.. {
        let Some(line) = next_line(&mut lines).map_err(failed)? else { break };
        if line.trim_ascii().is_empty() && (line.len() as u64) < MAX_LINE {
            continue;
        }
        match import_line(&accounts, &line).await {
            Ok(true) => opened += 1,
            Ok(false) => known += 1,
            Err(Import::Line(reason)) => {
                eprintln!("line {number} was left out: {reason}");
                wrong += 1;
            }
            Err(Import::Failed(failure)) => return Err(failure),
        }
    }
    say(&format!("{opened} accounts opened, {known} known already, {wrong} lines left out"))?;
    if wrong > 0 {
        return Err(Failure::new(Exit::Settings, "some lines were left out"));
    }
    Ok(())
}

/// Why a line was not imported.
enum Import {
    /// It is wrong; never with what it holds.
    Line(String),
    Failed(Failure),
}

/// Reads a line; of one that is too long its beginning, which cannot be used.
fn next_line(lines: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        lines.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

/// Opens an account for one line; returns whether its address was not known yet.
async fn import_line(accounts: &Accounts, line: &[u8]) -> Result<bool, Import> {
    let login: OldLogin = serde_json::from_slice(line).map_err(|_| {
        Import::Line("it is not like {\"email\":...,\"password_hash\":...}".to_owned())
    })?;
    let hash = login.password_hash.parse();
    let hash = hash.map_err(|error: PasswordHashError| Import::Line(error.to_string()))?;
    match accounts.import(&login.email, &hash).await {
        Ok(_) => Ok(true),
        Err(AccountError::Taken) => Ok(false),
        Err(error @ (AccountError::Email | AccountError::TooManyKinds(_))) => {
            Err(Import::Line(error.to_string()))
        }
        Err(error) => Err(Import::Failed(refused(error))),
    }
}

/// Opens everything that serving needs and reports on each.
pub(crate) async fn check(settings: &Settings) -> Result<(), Failure> {
    let books = check_books(settings).await;
    let is_running = matches!(books, Ok(State::InUse));
    let findings = [
        ("identity", check_identity(settings)),
        ("books", books.map(|state| format!("{}, {state}", settings.database_url()))),
        ("server", check_server(settings, is_running).await),
    ];
    let mut worst = None;
    for (name, finding) in findings {
        match finding {
            Ok(text) => say(&format!("ok     {name}: {text}"))?,
            Err(failure) => {
                say(&format!("WRONG  {name}: {failure}"))?;
                worst = worst.or(Some(failure.exit));
            }
        }
    }
    if let Err(error) = settings.phrases() {
        say(&format!("WRONG  phrases: {error}"))?;
        worst = worst.or(Some(Exit::Settings));
    }
    for name in settings.unused() {
        say(&format!("note   {name} is set and has no effect in this version"))?;
    }
    match worst {
        None => Ok(()),
        Some(exit) => Err(Failure::new(exit, "the coordinator cannot serve like this")),
    }
}

/// How things stand with the database.
#[derive(Clone, Copy, Debug)]
enum State {
    New,
    Ready,
    InUse,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "will be made when the coordinator first serves",
            Self::Ready => "can be used",
            Self::InUse => "a coordinator is at work on them",
        })
    }
}

fn check_identity(settings: &Settings) -> Result<String, Failure> {
    let path = &settings.private_key_path;
    match Identity::load(path) {
        Ok(identity) => Ok(format!("{}, {}", path.display(), identity.public())),
        Err(KeyFileError::Missing(_)) => Ok(format!("{}, {}", path.display(), State::New)),
        Err(error) => Err(Failure::books(error)),
    }
}

async fn check_books(settings: &Settings) -> Result<State, Failure> {
    let database = books::database(settings)?;
    if !books::exist(&database) {
        let secret = SecretFile::new(settings.secret(), Purpose::Records).load();
        return match secret {
            Ok(_) | Err(KeyFileError::Missing(_)) => Ok(State::New),
            Err(error) => Err(Failure::books(error)),
        };
    }
    let books = Books::open(settings)?;
    if let Some(found) = Transparency::coordinator_of(&books.store).await.map_err(Failure::books)? {
        let own = Identity::load(&settings.private_key_path).map_err(Failure::books)?.public();
        if own != found {
            return Err(Failure::books(StartError::OtherCoordinator { found, own }));
        }
    }
    Ok(books::lock(&database)?.map_or(State::InUse, |_| State::Ready))
}

/// Listens for a moment, in front of a coordinator that knows nothing.
async fn check_server(settings: &Settings, is_running: bool) -> Result<String, Failure> {
    let mut settings = settings.clone();
    if is_running {
        settings.listen.set_port(0);
    }
    let store = Arc::new(MemoryStore::new());
    let coordinator = Coordinator::builder(store, Identity::generate(), Secret::generate());
    let coordinator = coordinator.build().await.map_err(Failure::books)?;
    let server = Server::bind(coordinator, settings.server()).await;
    server.map_err(|error| Failure::new(Exit::Listen, error))?;
    Ok(if is_running {
        "can serve; its port was not tried".to_owned()
    } else {
        format!("can serve on {}://{}", settings.scheme(), settings.listen)
    })
}

async fn accounts(settings: &Settings) -> Result<Accounts, Failure> {
    let books = Books::open(settings)?;
    let (store, policy) = (Arc::new(books.store), settings.accounts());
    Accounts::load_with(store, books.secret, policy).await.map_err(Failure::books)
}

fn refused(error: AccountError) -> Failure {
    let exit = match error {
        AccountError::Unknown
        | AccountError::NoAccount
        | AccountError::FeeReused
        | AccountError::TooManyInvitations(_)
        | AccountError::TooManyKeys => Exit::Account,
        AccountError::Label | AccountError::NoFee | AccountError::Terms(_) => Exit::Settings,
        AccountError::Store(_) => Exit::Books,
        _ => Exit::Work,
    };
    Failure::new(exit, error)
}

fn read_input() -> Result<rest::Secret, Failure> {
    let mut text = String::new();
    io::stdin().take(MAX_INPUT).read_to_string(&mut text).map_err(|error| {
        Failure::new(Exit::Settings, format!("standard input cannot be read: {error}"))
    })?;
    Ok(rest::Secret::new(text.trim()))
}

/// Prints a line to standard output.
pub(crate) fn say(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(|error| unwritten(&error))
}

pub(crate) fn unwritten(error: &io::Error) -> Failure {
    Failure::new(Exit::Work, format!("standard output cannot be written: {error}"))
}
