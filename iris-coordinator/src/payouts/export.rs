//! A closed month's books, for whoever wants to check them.

use futures::Stream;
use futures::stream;
use iris_core::Epoch;
use iris_core::ledger::{Book, Cause, Movement, Posting};
use iris_core::reward::audit::Line;
use iris_core::reward::{Month, Outcome};

use super::facts::{Fact, Facts};
use super::record::{BOOKS, BooksRecord, month_key};
use super::{PayoutError, Payouts};

/// An export while it is written.
struct Export<'a> {
    payouts: &'a Payouts,
    epoch: Epoch,
    /// Lines that come before the facts.
    first: std::vec::IntoIter<Line>,
    facts: Facts<'a>,
    month: Month,
    outcome: Option<Outcome>,
}

impl Payouts {
    /// Writes the books of a closed month, line by line; [`audit`](iris_core::reward::audit) reads
    /// them. Fails at its end where the books are not any more what the month was closed by.
    pub async fn export(
        &self,
        epoch: Epoch,
    ) -> Result<impl Stream<Item = Result<Line, PayoutError>> + '_, PayoutError> {
        let found = self.store.get(month_key(BOOKS, epoch)).await?;
        let found = found.ok_or(PayoutError::NotClosed(epoch))?;
        let books: BooksRecord = found.value.decode()?;
        let closed = self.month(epoch).await?;
        let mut opening = self.opening(epoch).await?;
        (opening.state, opening.policy, opening.rates) =
            (books.opening, closed.policy, books.rates);
        let month = self.begin(&opening)?;
        let mut first = vec![Line::Opening(opening)];
        first.extend(self.paid_into(epoch).await?.into_iter().map(Line::Movement));
        let export = Export {
            payouts: self,
            epoch,
            first: first.into_iter(),
            facts: Facts::of(self, epoch).await?,
            month,
            outcome: Some(books.outcome),
        };
        Ok(stream::try_unfold(export, |mut export| async move {
            Ok(export.next().await?.map(|line| (line, export)))
        }))
    }

    /// Returns what was moved into a month's pool before it was shared, under pseudonyms.
    async fn paid_into(&self, epoch: Epoch) -> Result<Vec<Movement>, PayoutError> {
        let closed = Cause::Closed { epoch };
        let movements = self.movements().await?.into_iter();
        let into = movements.filter(|movement| {
            let touches = movement.postings().iter().any(|p| p.book == Book::Pool(epoch));
            touches && *movement.cause() != closed
        });
        Ok(into.map(|movement| self.under_pseudonyms(&movement)).collect())
    }

    fn under_pseudonyms(&self, movement: &Movement) -> Movement {
        let name = |account: &iris_core::AccountId| self.pseudonym(account);
        let cause = match movement.cause() {
            Cause::FeePaid { account, payment } => {
                Cause::FeePaid { account: name(account), payment: payment.clone() }
            }
            Cause::Forfeited { epoch, owner } => {
                Cause::Forfeited { epoch: *epoch, owner: name(owner) }
            }
            cause => cause.clone(),
        };
        let postings = movement.postings().iter().map(|posting| Posting {
            amount: posting.amount,
            book: match posting.book {
                Book::Held(owner) => Book::Held(name(&owner)),
                Book::Owed(owner) => Book::Owed(name(&owner)),
                book => book,
            },
        });
        let renamed = Movement::new(cause, movement.at(), postings.collect());
        renamed.expect("other names leave it balanced")
    }
}

impl Export<'_> {
    async fn next(&mut self) -> Result<Option<Line>, PayoutError> {
        if let Some(line) = self.first.next() {
            return Ok(Some(line));
        }
        match self.facts.next().await? {
            Some(Fact::Task(task)) => {
                self.month.task(&task);
                Ok(Some(Line::Task(task)))
            }
            Some(Fact::Event(event)) => {
                self.month.event(&event);
                Ok(Some(Line::Event(event)))
            }
            None => self.finish().await,
        }
    }

    async fn finish(&mut self) -> Result<Option<Line>, PayoutError> {
        let Some(outcome) = self.outcome.take() else { return Ok(None) };
        let pool = self.payouts.pool_before(self.epoch).await?;
        let same = self.month.close(pool).is(&outcome);
        if same { Ok(Some(Line::Outcome(outcome))) } else { Err(PayoutError::Changed(self.epoch)) }
    }
}
