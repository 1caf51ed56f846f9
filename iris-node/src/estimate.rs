//! `iris-node estimate`: what a machine may earn in a network, as far as that can be said.

use std::time::Duration;

use iris_core::backend::Backend;
use iris_core::ledger::Money;
use iris_core::model::TokenRate;
use iris_core::reward::EvidencePolicy;
use iris_node::speed;
use iris_protocol::rest::{MonthList, MonthSummary, RunningMonth};

use crate::failure::{Exit, Failure};
use crate::models::Models;
use crate::network::Asking;
use crate::settings::Settings;

/// How many of the latest months are looked at.
const MONTHS: usize = 3;
/// How long the trial of a model may take.
const TRIAL: Duration = Duration::from_secs(15);
/// A month of thirty days, in seconds.
const MONTH: u128 = 30 * 24 * 60 * 60;

/// Measures this machine, asks the network for its figures, and prints what follows.
pub(crate) async fn run(settings: &Settings) -> Result<(), Failure> {
    let rate = measure(settings).await?;
    let lines = ask(settings, rate).await?;
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// Asks the network for its figures; returns what follows from them for a machine that writes so
/// fast.
pub(crate) async fn ask(
    settings: &Settings,
    rate: Option<TokenRate>,
) -> Result<Vec<String>, Failure> {
    let coordinators = settings.coordinators().map_err(Failure::settings)?;
    let asking = Asking::new(settings)?;
    let mut trouble = None;
    for url in &coordinators {
        let network = asking.at(url, None).await;
        match network.months {
            Some(months) => return Ok(lines(&months, rate)),
            None => trouble = trouble.or(network.trouble),
        }
    }
    let trouble = trouble.unwrap_or_else(|| "nobody was asked".to_owned());
    let problem = format!("earnings cannot be estimated: {trouble}; `iris-node setup` gets a key");
    Err(Failure::new(Exit::Coordinator, problem))
}

/// Measures the first model that is loaded.
async fn measure(settings: &Settings) -> Result<Option<TokenRate>, Failure> {
    for backend in Models::set_up(settings)?.into_backends() {
        let backend: &dyn Backend = &*backend;
        let Ok(offers) = backend.models().await else { continue };
        let Some(offer) = offers.first().filter(|_| !backend.may_load()) else { continue };
        let rate = speed::measure(backend, &offer.name, TRIAL).await;
        if let Some(rate) = rate {
            println!("{} writes {rate} here.", offer.name);
            return Ok(Some(rate));
        }
    }
    println!("No model was measured: none is known to be loaded.");
    Ok(None)
}

/// Says what follows from a network's months for a machine that writes so fast.
fn lines(months: &MonthList, rate: Option<TokenRate>) -> Vec<String> {
    let Some(running) = &months.running else {
        return vec!["This coordinator does not tell what it shares.".to_owned()];
    };
    let paid = months.months.iter().filter(|month| month.pool > Money::ZERO && month.owners > 0);
    let paid: Vec<_> = paid.take(MONTHS).collect();
    if running.pool <= Money::ZERO && paid.is_empty() {
        return vec![
            "Nobody is paid here: the network's pool is empty, and was in each month.".to_owned(),
        ];
    }
    let is_evidence = running.policy == "evidence";
    if is_evidence && !running.tested {
        return vec![format!(
            "Nobody is paid here for now: {} is in the pool of {}, but no tests run, without which \
             nobody is paid; it is carried over.",
            running.pool, running.epoch
        )];
    }
    let mut lines = vec![pools(running, &paid)];
    lines.extend(paid.first().map(|_| average(&paid)));
    if is_evidence {
        lines.extend(range(&paid, rate));
        lines.push(probation());
    }
    lines.push(
        "None of this is promised: it depends on who asks for your models, and on what others do."
            .to_owned(),
    );
    lines
}

fn pools(running: &RunningMonth, paid: &[&MonthSummary]) -> String {
    let so_far = format!("{} is in the pool of {} so far", running.pool, running.epoch);
    if paid.is_empty() {
        return format!("{so_far}; no month was paid yet, so there is nothing to compare with.");
    }
    let months: Vec<_> =
        paid.iter().map(|month| format!("{} in {}", month.pool, month.epoch)).collect();
    format!("{so_far}; paid was {}.", months.join(", "))
}

fn average(paid: &[&MonthSummary]) -> String {
    let (pool, owners) = (mean(paid, pool_of), mean(paid, |month| month.owners.into()));
    let share = Money::micros(i64::try_from(pool / owners.max(1)).unwrap_or(i64::MAX));
    format!("An average owner, of {owners}, got {share} a month.")
}

/// Says what would be earned between an hour a day and all day. A unit of weight is a thousandth of
/// a written token.
fn range(paid: &[&MonthSummary], rate: Option<TokenRate>) -> Option<String> {
    let known: Vec<_> = paid.iter().copied().filter(|month| month.weight > 0).collect();
    let rate = rate.filter(|_| !known.is_empty())?;
    let (pool, others) = (mean(&known, pool_of), mean(&known, |month| month.weight.into()));
    let earned = |hours: u128| {
        let own = u128::from(rate.as_millis()) * MONTH * hours / 24;
        let share = pool.saturating_mul(own) / (own + others).max(1);
        Money::micros(i64::try_from(share).unwrap_or(i64::MAX))
    };
    Some(format!(
        "At {rate} this machine would get {} a month if it wrote for others one hour a day, and {} \
         if it wrote without a pause, one answer at a time, while the others do what they did.",
        earned(1),
        earned(24)
    ))
}

fn probation() -> String {
    let policy = EvidencePolicy::default();
    let days = Duration::from_millis(policy.probation_millis).as_secs() / (24 * 60 * 60);
    format!(
        "Nothing is paid for the first {days} days and until a node has passed {} tests \
         (probation); a share is held for a month after its own.",
        policy.probation_tests
    )
}

fn pool_of(month: &MonthSummary) -> u128 {
    u128::from(month.pool.as_micros().unsigned_abs())
}

fn mean(months: &[&MonthSummary], of: impl Fn(&MonthSummary) -> u128) -> u128 {
    let sum: u128 = months.iter().map(|month| of(month)).sum();
    sum / (months.len() as u128).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(epoch: &str, pool: i64, owners: u64, weight: u64) -> MonthSummary {
        MonthSummary {
            epoch: epoch.parse().unwrap(),
            policy: "evidence".to_owned(),
            pool: Money::micros(pool * 1_000_000),
            carried: Money::ZERO,
            owners,
            weight,
            closed: 0,
            release: 0,
        }
    }

    fn months(policy: &str, pool: i64, tested: bool, months: Vec<MonthSummary>) -> MonthList {
        let running = RunningMonth {
            epoch: "2026-11".parse().unwrap(),
            policy: policy.to_owned(),
            pool: Money::micros(pool * 1_000_000),
            tested,
        };
        MonthList { months, running: Some(running) }
    }

    fn said(months: &MonthList, rate: Option<u64>) -> String {
        lines(months, rate.map(TokenRate::per_second)).join("\n")
    }

    #[test]
    fn a_range_follows_from_what_others_did() {
        // The others wrote as much as ten tokens a second come to in a month without a pause.
        let weight = 10 * 1000 * u64::try_from(MONTH).unwrap();
        let last = vec![month("2026-10", 100, 4, weight), month("2026-09", 0, 0, 0)];
        let text = said(&months("evidence", 7, true, last), Some(10));
        assert!(text.contains("7.000000 is in the pool of 2026-11"), "{text}");
        assert!(text.contains("of 4, got 25.000000"), "{text}");
        // One hour of 24 beside a whole day of others, and as much as all others.
        assert!(text.contains("would get 4.000000 a month"), "{text}");
        assert!(text.contains("and 50.000000 if"), "{text}");
        assert!(text.contains("first 7 days") && text.contains("50 tests"), "{text}");
    }

    #[test]
    fn where_nobody_is_paid_that_is_said_and_nothing_else() {
        for (months, expected) in [
            (MonthList::default(), "does not tell"),
            (months("evidence", 0, true, vec![month("2026-10", 0, 0, 0)]), "pool is empty"),
            (months("evidence", 9, false, Vec::new()), "no tests run"),
        ] {
            let text = said(&months, Some(10));
            assert!(text.contains(expected) && text.lines().count() == 1, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let new = said(&months("evidence", 9, true, Vec::new()), Some(10));
        assert!(new.contains("no month was paid yet") && !new.contains("would get"), "{new}");
        let old = months("evidence", 9, true, vec![month("2026-10", 100, 4, 0)]);
        assert!(!said(&old, Some(10)).contains("would get"));
        let unmeasured = months("evidence", 9, true, vec![month("2026-10", 100, 4, 5)]);
        assert!(!said(&unmeasured, None).contains("would get"));
        let friends = said(&months("seed", 9, false, vec![month("2026-10", 9, 3, 5)]), Some(10));
        assert!(friends.contains("got 3.000000") && !friends.contains("probation"), "{friends}");
    }

    #[test]
    fn figures_beyond_all_measure_are_no_panic() {
        let odd = months(
            "evidence",
            1,
            true,
            vec![MonthSummary {
                pool: Money::micros(i64::MAX),
                ..month("2026-10", 1, u64::MAX, u64::MAX)
            }],
        );
        said(&odd, Some(u64::MAX / 1000));
    }
}
