//! Settings with their templates parsed.

use std::sync::Arc;

use crate::delivery::field::Path;
use crate::delivery::object_key::{BadTemplate, Template};
use crate::delivery::settings::{ForeignRecords, Settings};

/// Settings with their templates parsed: what encoding needs at hand.
#[derive(Debug)]
pub struct Recipe {
    /// What goes into the intent.
    pub settings: Arc<Settings>,
    /// Where archive objects go.
    pub prefix: Template,
    /// Where dead letters go.
    pub errors: Template,
    /// The field that holds a record's time; the time of arrival counts if there is none.
    pub time_field: Option<Path>,
}

impl Recipe {
    /// Parses the templates.
    ///
    /// # Errors
    /// The template that is wrong, and why.
    pub fn new(settings: Arc<Settings>) -> Result<Self, BadTemplate> {
        let time_field = match settings.time_field.as_str() {
            "" => None,
            path => Some(
                Path::parse(path)
                    .map_err(|why| BadTemplate::Field(settings.time_field.clone(), why))?,
            ),
        };
        Ok(Self {
            time_field,
            prefix: Template::parse(&settings.prefix, false)?,
            errors: Template::parse(&settings.errors, true)?,
            settings,
        })
    }

    /// The same for a shard where no reshard can be the cause of a foreign record.
    ///
    /// # Errors
    /// None that [`Self::new`] would not have met.
    pub fn keeping(&self) -> Result<Self, BadTemplate> {
        let mut settings = Settings::clone(&self.settings);
        // Builds that leave them out judge every shard.
        if settings.foreign_records != ForeignRecords::LeftOut {
            settings.foreign_records = ForeignRecords::Keep;
        }
        Self::new(Arc::new(settings))
    }
}
