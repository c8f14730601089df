//! `catchment replay`: delivers a range again.

mod args;
mod manage;
mod planning;
mod show;
mod start;
mod values;
pub(super) mod watch;

pub(in crate::cli) use args::ReplayOptions;
pub(super) use values::past;

use crate::aws::clients::Clients;
use crate::clock::Clock;
use crate::config::Config;
use crate::replay::store::StoreError;

use super::{Failure, SettingsArgs, runtime};
use args::{ReplayAction, layers};

pub(super) fn run(options: &ReplayOptions) -> Result<(), Failure> {
    match &options.action {
        None => start::run(&options.start),
        Some(ReplayAction::List { settings, json }) => {
            with(settings, |config, clients, _| async move {
                manage::list(&config, &clients, *json).await
            })
        }
        Some(ReplayAction::Status { id, settings, json }) => {
            with(settings, |config, clients, _| async move {
                manage::status(&config, &clients, id, *json).await
            })
        }
        Some(ReplayAction::Delete { id, settings, yes }) => {
            with(settings, |config, clients, clock| async move {
                manage::delete(&config, &clients, &clock, id, *yes).await
            })
        }
    }
}

fn with<F: Future<Output = Result<(), Failure>>>(
    settings: &SettingsArgs,
    act: impl FnOnce(Config, Clients, Clock) -> F,
) -> Result<(), Failure> {
    let config = Config::from_layers(layers(settings)?)?;
    let (runtime, _tasks) = runtime(1)?;
    runtime.block_on(async {
        let clients =
            Clients::from_environment(&config.aws).await.map_err(|e| Failure::new(2, e))?;
        act(config, clients, Clock::system()).await
    })
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Call(_) | StoreError::Lease(_) => 1,
            StoreError::Table(_) | StoreError::Plan { .. } | StoreError::Range(_) => 2,
        };
        Self::new(code, error)
    }
}
