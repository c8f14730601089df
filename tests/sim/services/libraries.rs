//! placeholder
use super::attr::Row;
use super::dynamodb::Dynamo;
use super::objects::SharedObjects;
use super::s3::S3Wire;
use super::{Request, Response};
use serde_json::Value;
use std::collections::BTreeMap;
pub struct Dynoxide;
impl Dynoxide {
    pub fn new() -> Self {
        Self
    }
}
impl Dynamo for Dynoxide {
    fn call(&mut self, _: &str, _: &Value) -> Response {
        unimplemented!()
    }
    fn peek(&self, _: &str, _: &str) -> Option<Row> {
        None
    }
    fn rows(&self, _: &str) -> BTreeMap<String, Row> {
        BTreeMap::new()
    }
}
pub struct S3s(SharedObjects);
impl S3s {
    pub fn new(o: SharedObjects) -> Self {
        Self(o)
    }
}
impl S3Wire for S3s {
    fn call(&mut self, _: &Request, _: i64) -> Response {
        unimplemented!()
    }
}
