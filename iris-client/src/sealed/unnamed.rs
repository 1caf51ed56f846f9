//! Questions that name no model: how hard they are is told by rules in this program, and the model
//! chosen from the roster. Nobody else learns anything for it.

use std::borrow::Cow;

use iris_core::ModelName;
use iris_core::classify::{LAST_RESORT, Question as Words, Rules};
use iris_core::demand::Demand;
use iris_core::explain::Explanation;
use iris_core::registry::Registry;
use iris_core::routing::{FamilyError, NoRoute, Route, Unnamed, Wanted, route};
use iris_core::task::TaskError;
use iris_protocol::openai::{RequestError, last_words, with_model};

use super::asking::{DOUBTFUL, ROSTER_LIFE};
use super::{Listing, Question};
use crate::client::Client;
use crate::error::ClientError;
use crate::policy::Policy;

impl Client {
    /// Returns the model for a question: `name`, or where that is `iris/any` or
    /// `iris/family:NAME` the one that is chosen for it.
    ///
    /// How hard the question is, rules in this program tell, and what the nodes offer, the roster;
    /// nothing of the question leaves the program. One's own nodes come first.
    pub async fn model_for(&self, name: &str, question: &str) -> Result<ModelName, ClientError> {
        let model: ModelName =
            name.parse().map_err(|_| ClientError::local(RequestError::UnknownModel))?;
        match Unnamed::of_name(name) {
            None => Ok(model),
            Some(unnamed) => {
                let demand = Demand::new(model);
                Ok(self.local_route(understood(unnamed)?, demand, question).await?.model)
            }
        }
    }

    /// Gives a question a model, if it names none.
    pub(crate) async fn named(&self, mut question: Question) -> Result<Question, ClientError> {
        let Some(unnamed) = Unnamed::of_name(question.asked.model.as_str()) else {
            return Ok(question);
        };
        let body = question.body.clone();
        let words = last_words(question.operation, &body).map_err(ClientError::local)?;
        let route = self.local_route(understood(unnamed)?, question.demand(), &words).await?;
        question.body = with_model(&question.body, &route.model).map_err(ClientError::local)?;
        question.asked.model = route.model;
        question.asked.preferences.tier = route.min_tier;
        Ok(question)
    }

    async fn local_route(
        &self,
        models: Unnamed,
        demand: Demand,
        words: &str,
    ) -> Result<Route, ClientError> {
        let difficulty = Rules::judge(&Words::new(words)).unwrap_or(LAST_RESORT);
        let wanted = Wanted { models, difficulty, demand };
        let mut age = ROSTER_LIFE;
        loop {
            let listing = self.listing(age).await?;
            match self.route_among(&listing, &wanted) {
                // Who can answer may have come since.
                Err(_) if listing.since.elapsed() > DOUBTFUL && age > DOUBTFUL => age = DOUBTFUL,
                found => return found,
            }
        }
    }

    fn route_among(&self, listing: &Listing, wanted: &Wanted) -> Result<Route, ClientError> {
        let own = listing.some(&self.sealed().trust.own()?);
        let found = |registry: &Registry| route(registry, wanted, |_| true);
        let mine = found(&own);
        match (mine, self.policy()) {
            (Ok(route), Policy::Own) => Ok(route),
            (Ok(route), _) if !route.lowered => Ok(route),
            (Err(NoRoute::NotOffered), Policy::Own) => Err(ClientError::NoOwnNode),
            (Err(NoRoute::NotAble(why)), Policy::Own) => {
                Err(ClientError::local(none_able(wanted, &why)))
            }
            _ => found(listing.registry()).map_err(|error| {
                ClientError::local(match error {
                    NoRoute::NotAble(why) => none_able(wanted, &why),
                    NoRoute::NotOffered => listing.not_offered(&wanted.models),
                })
            }),
        }
    }
}

/// Says why none of the nodes will do that offer one of the models.
fn none_able(wanted: &Wanted, why: &Explanation) -> TaskError {
    match TaskError::no_node_able(&wanted.demand, why) {
        // They lack nothing but the time, as those do that are paused.
        TaskError::NoNodeAble { needs, .. } if needs.is_empty() => {
            TaskError::NoNodeOnline { model: wanted.models.to_string() }
        }
        lacking => lacking,
    }
}

impl Listing {
    /// Says why none of the models that are meant is there.
    fn not_offered(&self, models: &Unnamed) -> TaskError {
        let model = models.to_string();
        let is_away = || self.away().iter().any(|known| models.means(known));
        match models {
            Unnamed::Family(_) if !is_away() => TaskError::ModelNotFound { model },
            _ => TaskError::NoNodeOnline { model },
        }
    }
}

fn understood(unnamed: Result<Unnamed, FamilyError>) -> Result<Unnamed, ClientError> {
    unnamed.map_err(|error| {
        let message = Cow::Owned(format!("In 'iris/family:...', {error}."));
        ClientError::local(RequestError::Invalid { message, param: Some("model") })
    })
}
