//! Kinesis stub
use std::path::Path;
use axum::response::Response;
use crate::clock::{Clock, Jitter};
use crate::task::Tasks;
use super::LocalError;
pub(super) struct Streams;
impl Streams {
    pub(super) async fn open(_: Option<&Path>, _: &str, _: &Tasks, _: &Clock, _: &Jitter) -> Result<Self, LocalError> { Ok(Self) }
    pub(super) async fn handle(&self, _o: &str, _c: bool, _b: &[u8]) -> Response { super::gateway::error(axum::http::StatusCode::BAD_REQUEST, "x", "y") }
}
