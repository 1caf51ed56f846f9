//! From the node to the coordinator: the key, the way there, TLS, the clock, the door for nodes.

use std::time::{Duration, Instant, SystemTime};

use iris_node::agent::{ConnectError, Connector, CoordinatorUrl};
use iris_protocol::rest::{Health, Secret};

use super::{Check, Report};
use crate::credential::{self, Credential};
use crate::failure::Exit;
use crate::http::{Answer, Http, cause, is_tls};
use crate::settings::Settings;

/// How far the clocks may be apart before certificates and keys seem to have run out.
const SKEW_WARN: Duration = Duration::from_secs(30);
const SKEW_FAIL: Duration = Duration::from_mins(5);
/// How often the way is measured.
const ROUNDS: usize = 5;
/// How long it is read as fast as it goes.
const READING: Duration = Duration::from_secs(1);
/// From here on the way is long for words that are shown as they come.
const SLOW_ROUND: Duration = Duration::from_millis(500);

pub(super) async fn check(settings: &Settings, http: &Http, report: &mut Report) {
    let key = key(settings, report);
    let urls = match settings.coordinators() {
        Ok(urls) => urls,
        Err(error) => {
            let advice = "mend --coordinator";
            report.add(Check::fail("coordinator", Exit::Settings, error.to_string(), advice));
            return;
        }
    };
    let mut first = None;
    for url in urls {
        if reached(http, &url, report).await && first.is_none() {
            first = Some(url);
        }
    }
    let Some(url) = first else {
        for link in ["door", "round trip"] {
            report.add(Check::skip(link, "a coordinator"));
        }
        return;
    };
    report.add(match key {
        Some(key) => door(settings, &url, key).await,
        None => Check::skip("door", "a key"),
    });
    report.add(way(http, &url).await);
}

/// Finds the key with which the account lets this node in.
fn key(settings: &Settings, report: &mut Report) -> Option<Secret> {
    const LINK: &str = "key";
    if let Some(key) = &settings.node_key {
        report.add(Check::ok(LINK, "a key of this node is in the settings"));
        return Some(key.clone());
    }
    match Credential::kept(settings) {
        Err(failure) => {
            let advice = "mend the file, or remove it and run `iris-node setup`";
            report.add(Check::fail(LINK, failure.exit, failure.to_string(), advice));
            None
        }
        Ok(Some(kept)) => {
            let file = credential::file(settings);
            report.add(Check::ok(LINK, format!("a key of this node is in {}", file.display())));
            Some(kept.key)
        }
        Ok(None) if settings.account_key.is_some() => {
            report.add(Check::warn(
                LINK,
                "the account's digits are there; they were not exchanged yet",
                "start the node, or run `iris-node setup`: either exchanges them for a key",
            ));
            None
        }
        Ok(None) => {
            report.add(Check::fail(
                LINK,
                Exit::Credential,
                "there is no key of an account",
                "run `iris-node setup`, which asks for the account's 16 digits (`iris account \
                 new` opens an account)",
            ));
            None
        }
    }
}

/// Looks whether a coordinator answers; then also at its TLS and its clock.
async fn reached(http: &Http, url: &CoordinatorUrl, report: &mut Report) -> bool {
    let base = url.http_base();
    let answer = match http.get(&format!("{base}/readyz"), None).await {
        Ok(answer) => answer,
        Err(error) => {
            report.add(unreached(url, &error));
            return false;
        }
    };
    let Some(health) = health(&answer) else {
        report.add(Check::fail(
            "coordinator",
            Exit::Coordinator,
            format!("what answers at {base} is no coordinator (status {})", answer.status),
            "mend --coordinator; a proxy before the coordinator must pass its paths on",
        ));
        return false;
    };
    let found = format!("Iris {} at {base}, {} nodes connected", health.version, health.nodes);
    report.add(if answer.is_success() {
        Check::ok("coordinator", found)
    } else {
        let advice = "it takes no work now; ask whoever runs it";
        Check::warn("coordinator", format!("{found}: {}", health.status), advice)
    });
    report.add(Check::ok(
        "TLS",
        if url.is_tls() {
            "the coordinator's certificate is trusted"
        } else {
            "not needed: the coordinator is on this machine"
        },
    ));
    report.add(clock(answer.date, SystemTime::now()));
    true
}

fn health(answer: &Answer) -> Option<Health> {
    let health: Health = serde_json::from_slice(&answer.body).ok()?;
    (!health.version.is_empty()).then_some(health)
}

fn unreached(url: &CoordinatorUrl, error: &reqwest::Error) -> Check {
    let cause = cause(error);
    let fail = |link, advice: &str| {
        Check::fail(link, Exit::Coordinator, format!("{}: {cause}", url.http_base()), advice)
    };
    if is_tls(error) {
        return fail(
            "TLS",
            "if its certificate is by an authority of your own, name that with --ca-file; else \
             look at this machine's clock, at the name in --coordinator and whether TLS is spoken \
             at that port",
        );
    }
    fail(
        "coordinator",
        "is it running, is --coordinator right, does this machine reach the network? A firewall \
         must let connections out; none has to come in",
    )
}

fn clock(there: Option<SystemTime>, here: SystemTime) -> Check {
    const LINK: &str = "clock";
    let Some(there) = there else {
        return Check::ok(LINK, "the coordinator does not tell its time");
    };
    let (ahead, apart) = match here.duration_since(there) {
        Ok(apart) => (true, apart),
        Err(error) => (false, error.duration()),
    };
    // The time there is told in whole seconds.
    let found = match (apart.as_secs() <= 2, ahead) {
        (true, _) => "as the coordinator's, to two seconds".to_owned(),
        (false, true) => format!("{} s ahead of the coordinator's", apart.as_secs()),
        (false, false) => format!("{} s behind the coordinator's", apart.as_secs()),
    };
    let advice = "set this machine's clock by the network's time (on Linux: `timedatectl set-ntp \
                  true`)";
    match apart {
        apart if apart >= SKEW_FAIL => Check::fail(LINK, Exit::Work, found, advice),
        apart if apart >= SKEW_WARN => Check::warn(LINK, found, advice),
        _ => Check::ok(LINK, found),
    }
}

/// Opens the connection that a node lives by, and gives it up again.
async fn door(settings: &Settings, url: &CoordinatorUrl, key: Secret) -> Check {
    const LINK: &str = "door";
    let fail = |exit, found: String, advice: &str| Check::fail(LINK, exit, found, advice);
    let connector = match crate::connector(settings, vec![url.clone()], key) {
        Ok(connector) => connector,
        Err(failure) => return fail(failure.exit, failure.to_string(), "mend --ca-file"),
    };
    match connector.connect().await {
        Ok(_) => Check::ok(LINK, "the coordinator lets this node in, over a WebSocket"),
        Err(error @ ConnectError::Unauthorized { .. }) => fail(
            Exit::Credential,
            error.to_string(),
            "the key was revoked, or is of another network or scope: `iris-node setup` gets a new \
             one, `iris keys new --scope node` makes one by hand",
        ),
        Err(error @ ConnectError::Refused { .. }) => fail(
            Exit::Coordinator,
            error.to_string(),
            "a proxy before the coordinator must pass WebSockets on",
        ),
        Err(error @ ConnectError::Tls { .. }) => {
            fail(Exit::Coordinator, error.to_string(), "see what was found of TLS above")
        }
        Err(error) => fail(
            Exit::Coordinator,
            error.to_string(),
            "plain requests get there, so something on the way cuts WebSockets off",
        ),
    }
}

/// Measures how long a word takes to the coordinator and back, and how much comes in a second.
async fn way(http: &Http, url: &CoordinatorUrl) -> Check {
    const LINK: &str = "round trip";
    let base = url.http_base();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let asked = Instant::now();
        if http.get(&format!("{base}/healthz"), None).await.is_ok() {
            rounds.push(asked.elapsed());
        }
    }
    rounds.sort();
    let Some(median) = rounds.get(rounds.len() / 2).copied() else {
        let advice = "the connection is unsteady; look at the network";
        return Check::warn(LINK, "no answer came back", advice);
    };
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < READING {
        // The longest text that everybody may read.
        match http.get(&format!("{base}/openapi.json"), None).await {
            Ok(answer) if answer.is_success() => bytes += answer.body.len(),
            _ => break,
        }
    }
    let round = format!("{:.1} ms", median.as_secs_f64() * 1e3);
    #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
    let pace = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let found = if bytes > 0 { format!("{round}; reads {pace:.2} MB/s") } else { round };
    if median > SLOW_ROUND {
        return Check::warn(LINK, found, "a coordinator nearer by would serve callers faster");
    }
    Check::ok(LINK, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn clocks_that_are_apart_are_told_which_way() {
        let there = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: i64| {
            let apart = Duration::from_secs(seconds.unsigned_abs());
            let here = if seconds < 0 { there - apart } else { there + apart };
            let check = clock(Some(there), here);
            (check.state, check.found)
        };
        assert_eq!(at(1).0, State::Ok);
        assert_eq!(at(-2).0, State::Ok);
        assert_eq!(at(40), (State::Warn, "40 s ahead of the coordinator's".to_owned()));
        assert_eq!(at(-3600), (State::Fail, "3600 s behind the coordinator's".to_owned()));
        assert_eq!(clock(None, there).state, State::Ok);
    }
}
