//! Who asks the node: what its owner sees of callers, and says of them.
//!
//! The coordinator keeps what an owner says and sees to it. The node keeps two files beside its
//! identity: who asked of late, so that the owner can name them, and whom the owner has blocked, so
//! that none of their tasks is taken even if one comes.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Subcommand};
use iris_core::TaskId;
use iris_core::id::CallerTag;
use iris_node::agent::{AskedTask, AskedTasks};
use iris_protocol::openai::ErrorBody;
use iris_protocol::rest::{
    CallerList, CallerName, CallerRequest, CallerRule, CallerSummary, ReportCreated, ReportRequest,
    Secret,
};
use reqwest::Method;
use serde::de::DeserializeOwned;

use crate::credential::Credential;
use crate::failure::{Exit, Failure};
use crate::http::{Answer, Http, cause};
use crate::private;
use crate::settings::Settings;

/// How long one question to a coordinator may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a running node takes to see what was written, at most: it looks every second.
const NOTICED: Duration = Duration::from_secs(2);
/// How often a running node asks whom its owner has blocked.
const REFRESHED_EVERY: Duration = Duration::from_mins(10);
/// How often the file of callers is written, at most.
const WRITTEN_EVERY: Duration = Duration::from_secs(5);
/// How many of the latest callers are listed.
const LISTED: usize = 20;
/// Most of what is shown to the operator that is read, in bytes.
const MAX_CONTENT: u64 = 16 << 10;

/// What an owner does about callers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CallerOrder {
    /// List who asked this node of late: tags that stand for accounts, and change every month
    Callers,
    /// List whom you have blocked and invited
    Blocks,
    /// Let none of your nodes answer a caller any more
    Block(Whom),
    /// Let nodes answer a caller that answer the `invited` alone
    Invite(Whom),
    /// Take back what you said of a caller
    #[command(visible_alias = "uninvite")]
    Unblock(Whom),
    /// Tell the operator of the network what a caller asked
    Report(NewReport),
}

/// A caller, or what it asked.
#[derive(Clone, Debug, Args)]
pub(crate) struct Whom {
    /// A tag or a task, as `iris-node callers` lists them, or the id of an account
    #[arg(value_name = "CALLER")]
    caller: String,
}

/// What is reported.
#[derive(Clone, Debug, Args)]
pub(crate) struct NewReport {
    #[command(flatten)]
    whom: Whom,
    /// What is wrong with it, for the operator to read
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// What of the request to show the operator, in a file; nothing of it is sent otherwise
    #[arg(long, value_name = "FILE")]
    content: Option<PathBuf>,
}

impl CallerOrder {
    /// Carries it out, and prints what came of it.
    pub(crate) async fn carry_out(self, settings: &Settings) -> Result<(), Failure> {
        if let Self::Callers = self {
            list(&read::<Vec<_>>(&asked_file(&settings.key_path)));
            return Ok(());
        }
        let desk = Desk::open(settings).await?;
        match self {
            Self::Callers => Ok(()),
            Self::Blocks => {
                let said = desk.said().await?;
                if said.is_empty() {
                    println!("you have said nothing of any caller");
                }
                for CallerSummary { caller, rule, .. } in said {
                    println!("{caller}  {}", rule.name());
                }
                Ok(())
            }
            Self::Block(whom) => desk.say(&whom, CallerRule::Blocked).await,
            Self::Invite(whom) => desk.say(&whom, CallerRule::Invited).await,
            Self::Unblock(whom) => desk.lift(&whom).await,
            Self::Report(report) => desk.report(report).await,
        }
    }
}

/// Keeps whom the running node refuses by itself as the coordinator has it: its owner may have said
/// something elsewhere, and tags change with the month.
pub(crate) async fn keep_up(settings: Settings, key: Secret) {
    let Ok(http) = Http::new(&settings, PATIENCE) else { return };
    let desk = Desk { settings: &settings, http, key };
    loop {
        if let Err(error) = desk.keep_blocked().await {
            tracing::debug!(%error, "who is blocked is not known anew");
        }
        tokio::time::sleep(REFRESHED_EVERY).await;
    }
}

fn list(asked: &[AskedTask]) {
    if asked.is_empty() {
        println!("nobody has asked this node of late");
    }
    for AskedTask { task, caller, model, .. } in asked.iter().rev().take(LISTED) {
        let tag = caller.map_or_else(|| "no account".to_owned(), |tag| tag.to_string());
        println!("{tag:<34}  {task}  {model}");
    }
}

/// The way to the coordinator that keeps what an owner says.
struct Desk<'a> {
    settings: &'a Settings,
    http: Http,
    key: Secret,
}

/// Whom an owner means.
struct Meant {
    caller: Option<CallerName>,
    task: Option<TaskId>,
}

impl<'a> Desk<'a> {
    async fn open(settings: &'a Settings) -> Result<Self, Failure> {
        let http = Http::new(settings, PATIENCE)?;
        Ok(Self { settings, http, key: Credential::obtain(settings).await?.key })
    }

    async fn say(&self, whom: &Whom, rule: CallerRule) -> Result<(), Failure> {
        let caller = self.caller(whom)?;
        if rule != CallerRule::Blocked {
            self.forget(caller).await?;
        }
        let request = CallerRequest { caller, rule };
        let said: CallerSummary = self.ask(Method::POST, "callers", Some(&request)).await?;
        self.keep_blocked().await?;
        println!("{} is {} from now on", said.caller, said.rule.name());
        Ok(())
    }

    async fn lift(&self, whom: &Whom) -> Result<(), Failure> {
        let caller = self.caller(whom)?;
        self.forget(caller).await?;
        let lifted = self.answer::<()>(Method::DELETE, &format!("callers/{caller}"), None).await;
        self.keep_blocked().await?;
        lifted?;
        println!("{caller} is like any other from now on");
        Ok(())
    }

    async fn report(&self, report: NewReport) -> Result<(), Failure> {
        let Meant { caller, task } = self.meant(&report.whom)?;
        let content = report.content.as_deref().map(content).transpose()?;
        let request = ReportRequest { caller, task, reason: report.reason, content };
        let made: ReportCreated = self.ask(Method::POST, "reports", Some(&request)).await?;
        println!("the operator has your report {}", made.id);
        Ok(())
    }

    async fn said(&self) -> Result<Vec<CallerSummary>, Failure> {
        let list: CallerList = self.ask::<(), _>(Method::GET, "callers", None).await?;
        Ok(list.callers)
    }

    /// Lets the running node refuse a caller's tasks no more, before any of them comes again: what
    /// it refuses counts against it.
    async fn forget(&self, caller: CallerName) -> Result<(), Failure> {
        let file = blocked_file(&self.settings.key_path);
        let mut blocked: Vec<CallerTag> = read(&file);
        let known = blocked.len();
        blocked.retain(|tag| CallerName::Tag(*tag) != caller);
        if blocked.len() < known {
            self.write_blocked(&blocked)?;
            tokio::time::sleep(NOTICED).await;
        }
        Ok(())
    }

    fn write_blocked(&self, blocked: &[CallerTag]) -> Result<(), Failure> {
        write(&blocked_file(&self.settings.key_path), &blocked)
            .map_err(|error| Failure::files(format!("who is blocked is not written: {error}")))
    }

    /// Writes down whose tasks the node refuses by itself.
    async fn keep_blocked(&self) -> Result<(), Failure> {
        let said = self.said().await?;
        let blocked = said.iter().filter(|said| said.rule == CallerRule::Blocked);
        let blocked: Vec<CallerTag> = blocked.map(|said| said.caller).collect();
        if read::<Vec<CallerTag>>(&blocked_file(&self.settings.key_path)) == blocked {
            return Ok(());
        }
        self.write_blocked(&blocked)
    }

    fn caller(&self, whom: &Whom) -> Result<CallerName, Failure> {
        self.meant(whom)?.caller.ok_or_else(|| {
            Failure::settings(
                "this was asked by somebody without an account; callers = \"members\" in the \
                 settings keeps them all out",
            )
        })
    }

    /// Finds out whom an owner means; what names a task of late is that task's caller.
    fn meant(&self, whom: &Whom) -> Result<Meant, Failure> {
        let asked = read::<Vec<AskedTask>>(&asked_file(&self.settings.key_path));
        let text = whom.caller.trim();
        if let Some(asked) = asked.iter().find(|asked| asked.task.to_string() == text) {
            let caller = asked.caller.map(CallerName::Tag);
            return Ok(Meant { caller, task: Some(asked.task) });
        }
        let caller = text.parse::<CallerName>();
        let caller = caller.map_err(|error| Failure::settings(format!("{text}: {error}")))?;
        Ok(Meant { caller: Some(caller), task: None })
    }

    async fn ask<B: serde::Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, Failure> {
        let answer = self.answer(method, path, body).await?;
        let unread = || Failure::new(Exit::Coordinator, "the coordinator's answer is no such one");
        answer.json().ok_or_else(unread)
    }

    /// Asks the first coordinator that answers.
    async fn answer<B: serde::Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer, Failure> {
        let mut last = None;
        for url in self.settings.coordinators().map_err(Failure::settings)? {
            let endpoint = format!("{}/{path}", url.http_base());
            match self.http.send(method.clone(), &endpoint, &self.key, body).await {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer) => return Err(refused(&answer)),
                Err(error) => last = Some(format!("{url}: {}", cause(&error))),
            }
        }
        Err(Failure::new(Exit::Coordinator, last.unwrap_or_default()))
    }
}

/// Says in the coordinator's words why something was not done.
fn refused(answer: &Answer) -> Failure {
    let exit = if answer.wants_key() { Exit::Credential } else { Exit::Coordinator };
    let told = serde_json::from_slice::<ErrorBody>(&answer.body).ok();
    let told = told.map(|body| body.error.message).filter(|told| !told.is_empty());
    let told = told.unwrap_or_else(|| format!("the coordinator answers {}", answer.status));
    let shown = told.chars().filter(|c| !iris_core::model::is_invisible(*c)).collect::<String>();
    Failure::new(exit, shown)
}

fn content(file: &Path) -> Result<String, Failure> {
    let unusable = |what: &dyn fmt::Display| Failure::files(format!("{}: {what}", file.display()));
    let length = std::fs::metadata(file).map_err(|error| unusable(&error))?.len();
    if length > MAX_CONTENT {
        return Err(unusable(&"the operator is shown at most 16 KiB; cut it to what matters"));
    }
    std::fs::read_to_string(file).map_err(|error| unusable(&error))
}

/// What the running node keeps of its callers.
#[derive(Debug)]
pub(crate) struct Callers {
    key: PathBuf,
    asked: Arc<AskedTasks>,
    /// Those of earlier starts.
    before: Vec<AskedTask>,
    written: (u64, Option<Instant>),
    seen: Option<SystemTime>,
}

impl Callers {
    /// Goes on from what is known beside the identity in `key`.
    pub(crate) fn load(key: &Path, asked: Arc<AskedTasks>) -> Self {
        let before = read(&asked_file(key));
        Self { key: key.to_owned(), asked, before, written: (0, None), seen: None }
    }

    /// Writes down who has asked; returns who is blocked, where that has changed.
    pub(crate) fn look(&mut self) -> Option<Arc<BTreeSet<CallerTag>>> {
        let (written, at) = self.written;
        let count = self.asked.count();
        if count != written && at.is_none_or(|at| at.elapsed() >= WRITTEN_EVERY) {
            self.written = (count, Some(Instant::now()));
            let mut all = self.before.clone();
            all.extend(self.asked.latest());
            all.drain(..all.len().saturating_sub(AskedTasks::KEPT));
            let text = serde_json::to_string(&all).unwrap_or_default();
            if let Err(error) = private::write_soon(&asked_file(&self.key), &text) {
                tracing::warn!(%error, "who has asked is not written down");
            }
        }
        let file = blocked_file(&self.key);
        let changed = std::fs::metadata(&file).and_then(|found| found.modified()).ok()?;
        if self.seen == Some(changed) {
            return None;
        }
        self.seen = Some(changed);
        Some(Arc::new(read::<Vec<CallerTag>>(&file).into_iter().collect()))
    }
}

fn asked_file(key: &Path) -> PathBuf {
    key.with_extension("callers.json")
}

fn blocked_file(key: &Path) -> PathBuf {
    key.with_extension("blocked.json")
}

/// Reads a list; one that is not there, or cannot be read, is empty.
fn read<T: DeserializeOwned + Default>(file: &Path) -> T {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_else(|_| {
        if !text.is_empty() {
            tracing::warn!(path = %file.display(), "this cannot be read, and counts as empty");
        }
        T::default()
    })
}

fn write(file: &Path, list: &impl serde::Serialize) -> std::io::Result<()> {
    private::write(file, &serde_json::to_string(list)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> Settings {
        let key = folder.join("node.key").to_string_lossy().into_owned();
        let environment = move |name: &str| (name == "NODE_KEY_PATH").then(|| key.clone());
        Settings::load(Vec::new(), environment, None).unwrap()
    }

    fn desk(settings: &Settings) -> Desk<'_> {
        let http = Http::new(settings, PATIENCE).unwrap();
        Desk { settings, http, key: Secret::new("iris_a") }
    }

    #[tokio::test]
    async fn who_asked_is_named_by_task_by_tag_or_by_account() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let tag = CallerTag::new(1, [2; 16]);
        let asked = |byte: u8, caller| AskedTask {
            task: TaskId::from_bytes([byte; 16]),
            caller,
            model: "m".parse().unwrap(),
            at: iris_core::Timestamp::from_millis(1),
        };
        let all = vec![asked(1, Some(tag)), asked(2, None)];
        write(&asked_file(&settings.key_path), &all).unwrap();
        let desk = desk(&settings);
        let meant = |text: String| desk.caller(&Whom { caller: text });
        assert_eq!(meant(all[0].task.to_string()).unwrap(), CallerName::Tag(tag));
        assert_eq!(meant(tag.to_string()).unwrap(), CallerName::Tag(tag));
        assert!(matches!(meant("3".repeat(32)).unwrap(), CallerName::Account(_)));
        let nobody = meant(all[1].task.to_string()).unwrap_err().to_string();
        assert!(nobody.contains("members"), "{nobody}");
        assert!(meant("somebody".to_owned()).is_err());
    }

    #[test]
    fn the_files_outlive_the_process_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("node.key");
        let mut callers = Callers::load(&key, Arc::default());
        assert!(callers.look().is_none(), "nobody is blocked");
        let tag = CallerTag::new(1, [2; 16]);
        write(&blocked_file(&key), &[tag]).unwrap();
        assert_eq!(callers.look().unwrap().iter().collect::<Vec<_>>(), [&tag]);
        assert!(callers.look().is_none(), "nothing has changed since");
        std::fs::write(asked_file(&key), "{").unwrap();
        assert!(Callers::load(&key, Arc::default()).before.is_empty());
    }
}
