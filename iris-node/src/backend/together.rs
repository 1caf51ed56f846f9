//! Several loaders as one, so that one limit of memory holds for the models of all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, join_all};
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError};

use super::on_demand::{Loadable, Loader};

/// A [`Loader`] of what several others can load. A name stays with the one that listed it first.
#[derive(Debug)]
pub struct Together {
    loaders: Vec<Arc<dyn Loader>>,
    owners: Mutex<BTreeMap<ModelName, usize>>,
}

impl Together {
    /// Puts loaders together; of two that list a name at first, the earlier one has it.
    pub fn new(loaders: Vec<Arc<dyn Loader>>) -> Self {
        Self { loaders, owners: Mutex::default() }
    }

    fn owners(&self) -> MutexGuard<'_, BTreeMap<ModelName, usize>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owner(&self, model: &ModelName) -> Option<&Arc<dyn Loader>> {
        self.owners().get(model).map(|at| &self.loaders[*at])
    }
}

impl Loader for Together {
    /// Lists what those have that can be asked; fails where none can be.
    fn models(&self) -> BoxFuture<'_, Result<Vec<Loadable>, BackendError>> {
        Box::pin(async {
            let lists = join_all(self.loaders.iter().map(|loader| loader.models())).await;
            if let Some(Err(error)) = lists.first()
                && lists.iter().all(Result::is_err)
            {
                return Err(error.clone());
            }
            let mut owners = self.owners();
            let mut models = Vec::new();
            for (at, list) in lists.into_iter().enumerate() {
                let list = list.unwrap_or_default().into_iter();
                models.extend(
                    list.filter(|model| {
                        *owners.entry(model.offer.name.clone()).or_insert(at) == at
                    }),
                );
            }
            Ok(models)
        })
    }

    fn load(
        &self,
        model: &ModelName,
    ) -> BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>> {
        match self.owner(model) {
            Some(owner) => owner.load(model),
            None => Box::pin(async { Err(BackendError::ModelNotFound) }),
        }
    }

    fn unload(&self, model: &ModelName) -> BoxFuture<'static, Result<(), BackendError>> {
        match self.owner(model) {
            Some(owner) => owner.unload(model),
            None => Box::pin(async { Ok(()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use iris_core::backend::ScriptedBackend;
    use iris_core::memory::ByteSize;
    use iris_core::model::ModelOffer;
    use iris_core::residency::Claim;

    use super::*;

    /// Lists some models, if it answers, and writes down what it unloads.
    #[derive(Debug, Default)]
    struct Shelf {
        models: Vec<&'static str>,
        is_down: Mutex<bool>,
        unloaded: Mutex<Vec<ModelName>>,
    }

    impl Loader for Shelf {
        fn models(&self) -> BoxFuture<'_, Result<Vec<Loadable>, BackendError>> {
            let is_down = *self.is_down.lock().unwrap();
            let models = self.models.iter().map(|name| Loadable {
                offer: ModelOffer::new(name.parse().unwrap(), 4096),
                claim: Claim { memory: ByteSize::new(1), slots: 1 },
                is_loaded: false,
            });
            let models = models.collect();
            Box::pin(
                async move { if is_down { Err(BackendError::Unavailable) } else { Ok(models) } },
            )
        }

        fn load(
            &self,
            model: &ModelName,
        ) -> BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>> {
            let backend = ScriptedBackend::echo(model.clone());
            Box::pin(async { Ok(Arc::new(backend) as Arc<dyn Backend>) })
        }

        fn unload(&self, model: &ModelName) -> BoxFuture<'static, Result<(), BackendError>> {
            self.unloaded.lock().unwrap().push(model.clone());
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn each_model_is_its_loaders_and_one_that_is_down_takes_nothing_from_the_other() {
        let shelf = |models: &[&'static str]| {
            Arc::new(Shelf { models: models.to_vec(), ..Shelf::default() })
        };
        let (one, other) = (shelf(&["a", "b"]), shelf(&["b", "c"]));
        let both = Together::new(vec![one.clone(), other.clone()]);
        let names = async || {
            let models = both.models().await?;
            Ok(models.into_iter().map(|model| model.offer.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names().await.unwrap(), ["a", "b", "c"]);
        *one.is_down.lock().unwrap() = true;
        assert_eq!(names().await.unwrap(), ["c"], "the other's b is another model");
        for model in ["b", "c"].map(|name| name.parse().unwrap()) {
            both.load(&model).await.unwrap();
            both.unload(&model).await.unwrap();
        }
        let unloaded = |shelf: &Shelf| shelf.unloaded.lock().unwrap()[0].to_string();
        assert_eq!([unloaded(&one), unloaded(&other)], ["b", "c"]);
        let unknown = both.load(&"d".parse().unwrap()).await;
        assert_eq!(unknown.err(), Some(BackendError::ModelNotFound));
        *other.is_down.lock().unwrap() = true;
        let failed: Result<_, BackendError> = names().await;
        assert_eq!(failed, Err(BackendError::Unavailable));
    }
}
