//! Uploads: the vocabulary shared by the front door, which writes upload events, and the worker,
//! which stores them as objects.

pub mod event;
pub(crate) mod file_key;
