//! The front door as callers meet it: login, tokens, uploads, and everything that is refused.
#![cfg(feature = "local")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "tests")]

mod bodies;
mod browser;
mod http;
mod login;
mod runtime;
mod stub;
mod tokens;

use std::time::Duration;

use catchment::clock::{Clock, Jitter};
use catchment::local::door::{FrontDoor, FrontDoorOptions};
use catchment::task::Tasks;
use serde_json::{Value, json};

use self::http::{Answer, send};
use self::stub::Stub;

/// A front door before a stub of Kinesis and S3.
pub(crate) struct World {
    pub(crate) door: FrontDoor,
    pub(crate) stub: Stub,
}

pub(crate) async fn world() -> World {
    world_with(|_| {}).await
}

pub(crate) async fn world_with(change: impl FnOnce(&mut FrontDoorOptions)) -> World {
    let stub = Stub::start().await;
    let mut options = FrontDoorOptions::new(&stub.url, &stub.url, "uploads", "bucket");
    options.put_deadline = Duration::from_secs(20);
    change(&mut options);
    let tasks = Tasks::pooled(2);
    let door = FrontDoor::start(options, &tasks, Clock::system(), Jitter::system()).await.unwrap();
    World { door, stub }
}

impl World {
    /// Claims of a good access token, to be spoilt by tests.
    pub(crate) fn claims(&self) -> Value {
        let now = Clock::system().wall() / 1000;
        json!({
            "iss": self.door.issuer_url, "sub": "0b9d7d9e-0000-4000-8000-000000000001",
            "client_id": self.door.client_id, "token_use": "access",
            "scope": "openid catchment/upload", "username": "dev",
            "iat": now, "exp": now + 600, "auth_time": now, "jti": "j",
        })
    }

    pub(crate) fn token(&self) -> String {
        self.door.issuer().sign(&self.claims()).unwrap()
    }

    pub(crate) fn token_of(&self, sub: &str) -> String {
        let mut claims = self.claims();
        claims["sub"] = json!(sub);
        self.door.issuer().sign(&claims).unwrap()
    }

    pub(crate) async fn upload(
        &self,
        token: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let bearer = format!("Bearer {token}");
        let all = [&[("authorization", bearer.as_str())], headers].concat();
        send("POST", &format!("{}/uploads", self.door.api_url), &all, body).await
    }

    pub(crate) async fn look_up(&self, token: &str, file_key: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        let url = format!("{}/{file_key}", self.door.api_url);
        send("GET", &url, &[("authorization", &bearer)], "").await
    }
}

/// An error has one shape and names its request.
pub(crate) fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["error"]["code"], code, "{answer:?}");
    let id = json["error"]["request_id"].as_str().unwrap();
    assert_eq!(answer.header("x-request-id"), Some(id));
    assert_eq!(json.as_object().unwrap().len(), 1);
    assert_eq!(json["error"].as_object().unwrap().len(), 3);
}
