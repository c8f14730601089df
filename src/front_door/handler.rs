//! The upload function: takes an API Gateway v2 event, answers one.
//!
//! A 200 means that Kinesis has acknowledged the event. Anything else means that the caller must
//! try again; with an `Idempotency-Key` trying again is safe whatever became of the first try.

use std::time::Duration;

use lambda_http::aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use lambda_http::http::Method;

use super::claims::{AuthError, AuthPolicy, Caller, admit};
use super::media::extension;
use super::reply::{ProblemReply, ReplyLook, Uploaded, answer, text};
use super::request::{body, content_type, idempotency_key, too_large, within_stage};
use crate::aws::front_door::{UploadApi, UploadApiError};
use crate::clock::{Clock, Jitter};
use crate::upload::event::{
    Envelope, KEY_PREFIX, idempotent_id, is_request_id, max_body_bytes, sha256_hex,
    validate_file_key,
};

/// How a deployment wants the handler to behave.
#[derive(Debug, Clone)]
pub struct HandlerConfig {
    /// The stream's record limit (1 MiB unless raised).
    pub max_record_bytes: usize,
    /// What callers must bring.
    pub demands: AuthPolicy,
    /// How long to go on trying to put one event.
    pub put_deadline: Duration,
}

impl Default for HandlerConfig {
    fn default() -> Self {
        Self {
            max_record_bytes: 1 << 20,
            demands: AuthPolicy::default(),
            put_deadline: Duration::from_secs(8),
        }
    }
}

/// The handler; made once, called for every request, concurrently if the host likes.
#[derive(Clone)]
pub struct Handler {
    door: UploadApi,
    config: HandlerConfig,
    clock: Clock,
    jitter: Jitter,
}

/// What goes into the one log line of a request.
#[derive(Default)]
struct AccessLog {
    caller: String,
    file_key: String,
    bytes: usize,
    attempts: u32,
    /// Spent with Kinesis, pauses between attempts included.
    put: Duration,
    reason: String,
}

impl Handler {
    /// Puts the parts together.
    pub fn new(door: UploadApi, config: HandlerConfig, clock: Clock, jitter: Jitter) -> Self {
        Self { door, config, clock, jitter }
    }

    /// The largest file this deployment takes.
    fn max_body_bytes(&self) -> usize {
        max_body_bytes(self.config.max_record_bytes)
    }

    /// Answers one request within `budget`. Never fails: every outcome is an HTTP answer.
    pub async fn handle(
        &self,
        event: ApiGatewayV2httpRequest,
        budget: Duration,
    ) -> ApiGatewayV2httpResponse {
        let request_id = self.request_id(&event);
        let started = self.clock.now();
        let mut trail = AccessLog::default();
        let response = match self.route(event, &request_id, budget, &mut trail).await {
            Ok(body) => answer(200, &request_id, body),
            Err(problem) => {
                if trail.reason.is_empty() {
                    problem.code.clone_into(&mut trail.reason);
                }
                problem.answer(&request_id)
            }
        };
        let took_ms = milliseconds(self.clock.now() - started);
        let status = response.status_code;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id,
                    status,
                    took_ms,
                    put_ms = milliseconds(trail.put),
                    caller = trail.caller,
                    file_key = trail.file_key,
                    bytes = trail.bytes,
                    attempts = trail.attempts,
                    reason = trail.reason,
                    "request"
                )
            };
        }
        if status >= 500 {
            line!(error)
        } else {
            line!(info)
        }
        response
    }

    fn request_id(&self, event: &ApiGatewayV2httpRequest) -> String {
        let given = event.request_context.request_id.as_deref();
        match given.filter(|id| is_request_id(id)) {
            Some(id) => id.to_owned(),
            None => self.jitter.uuid().to_string(),
        }
    }

    async fn route(
        &self,
        event: ApiGatewayV2httpRequest,
        request_id: &str,
        budget: Duration,
        trail: &mut AccessLog,
    ) -> Result<String, ProblemReply> {
        let jwt = event.request_context.authorizer.as_ref().and_then(|a| a.jwt.as_ref());
        let scopes = jwt.and_then(|j| j.scopes.as_deref()).unwrap_or_default();
        let caller = admit(jwt.map(|j| &j.claims), scopes, &self.config.demands)
            .map_err(|refusal| refuse(refusal, trail))?;
        trail.caller = caller.subject.chars().take(16).collect();

        let path = event
            .raw_path
            .clone()
            .or_else(|| event.request_context.http.path.clone())
            .unwrap_or_default();
        let path = within_stage(&path, event.request_context.stage.as_deref());
        match (&event.request_context.http.method, path) {
            (&Method::POST, "/" | "" | "/uploads" | "/uploads/") => {
                self.upload(event, caller, request_id, budget, trail).await
            }
            (&Method::GET, path) if path.starts_with("/uploads/") => {
                self.look_up(&path["/uploads/".len()..], &caller, trail).await
            }
            (_, "/" | "" | "/uploads" | "/uploads/") => Err(ProblemReply {
                allow: Some("POST"),
                ..ProblemReply::new(405, "method_not_allowed", "send the file with POST")
            }),
            (_, path) if path.starts_with("/uploads/") => Err(ProblemReply {
                allow: Some("GET"),
                ..ProblemReply::new(405, "method_not_allowed", "ask for an upload with GET")
            }),
            _ => Err(ProblemReply::new(404, "not_found", "there is nothing here; POST /uploads")),
        }
    }

    async fn upload(
        &self,
        event: ApiGatewayV2httpRequest,
        caller: Caller,
        request_id: &str,
        budget: Duration,
        trail: &mut AccessLog,
    ) -> Result<String, ProblemReply> {
        let started = self.clock.now();
        let content_type = content_type(&event)?;
        let idempotency_key = idempotency_key(&event)?;
        let body = body(event, self.max_body_bytes())?;
        trail.bytes = body.len();

        let id = match &idempotency_key {
            Some(key) => idempotent_id(&caller.subject, key),
            None => self.jitter.uuid(),
        };
        let file_key = format!("{KEY_PREFIX}{id}.{}", extension(&content_type));
        let file_key = validate_file_key(&file_key)
            .map_err(|e| ProblemReply::new(500, "internal", e.to_string()))?;
        file_key.as_str().clone_into(&mut trail.file_key);

        let record = Envelope {
            file_key: file_key.clone(),
            content_type,
            sha256: sha256_hex(&body),
            subject: caller.subject,
            request_id: request_id.to_owned(),
            received_at: self.clock.wall(),
            body,
        }
        .encode();
        let until = started + budget.min(self.config.put_deadline);
        let putting = self.clock.now();
        let put = self.put(&id.to_string(), record, until, trail).await;
        trail.put = self.clock.now() - putting;
        put?;
        Ok(text(&Uploaded { message: "File uploaded and event sent", file_key: file_key.as_str() }))
    }

    /// Puts the event, trying again while the failure may pass and time is left.
    async fn put(
        &self,
        partition_key: &str,
        record: Vec<u8>,
        until: Duration,
        trail: &mut AccessLog,
    ) -> Result<(), ProblemReply> {
        let mut pause = Duration::from_millis(50);
        let mut before = None;
        loop {
            trail.attempts += 1;
            let left = until.saturating_sub(self.clock.now());
            let call = self.door.put_event(partition_key, record.clone());
            let error = match tokio::time::timeout(left, call).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                // An attempt that had little time says less than the one before it.
                Err(_) => before.take().unwrap_or_else(|| {
                    UploadApiError::Unavailable("no answer before the deadline".into())
                }),
            };
            let wait = self.jitter.spread(pause, 0.5);
            if !error.is_transient() || self.clock.now() + wait >= until {
                trail.reason = error.to_string();
                return Err(self.explain(&error));
            }
            tracing::debug!(attempt = trail.attempts, %error, "the event is put again");
            before = Some(error);
            self.clock.sleep(wait).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn explain(&self, error: &UploadApiError) -> ProblemReply {
        match error {
            UploadApiError::Throttled(_) => {
                ProblemReply::later("throttled", "the stream takes no more at the moment", 2)
            }
            UploadApiError::Unavailable(_) => ProblemReply::later(
                "unavailable",
                "the stream did not acknowledge the file; send it again",
                5,
            ),
            UploadApiError::TooLarge(_) => too_large(self.max_body_bytes(), None),
            UploadApiError::Denied(_) | UploadApiError::Misconfigured(_) => ProblemReply::new(
                500,
                "internal",
                "the service cannot reach its stream; its operator must look at the log",
            ),
        }
    }

    async fn look_up(
        &self,
        name: &str,
        caller: &Caller,
        trail: &mut AccessLog,
    ) -> Result<String, ProblemReply> {
        let unknown = || ProblemReply::new(404, "not_found", "not stored yet or unknown");
        if !self.door.can_look_up() {
            return Err(ProblemReply::new(501, "not_configured", "look-ups are not configured"));
        }
        // Names given out are a UUID and an extension; nothing else can have been given out.
        if name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        {
            return Err(unknown());
        }
        let key = validate_file_key(&format!("{KEY_PREFIX}{name}")).map_err(|_| unknown())?;
        key.as_str().clone_into(&mut trail.file_key);
        match self.door.head_upload(key.as_str()).await {
            Ok(Some(stored)) if stored.subject.as_deref() == Some(caller.subject.as_str()) => {
                Ok(text(&ReplyLook {
                    status: "stored",
                    file_key: key.as_str(),
                    size: stored.size,
                    sha256: stored.sha256.as_deref(),
                }))
            }
            Ok(Some(_)) => {
                trail.reason = "uploaded by another caller".into();
                Err(unknown())
            }
            Ok(None) => Err(unknown()),
            // S3 says 403 for a missing object to a role that may not list the bucket.
            Err(UploadApiError::Denied(why)) => {
                trail.reason = why;
                Err(unknown())
            }
            Err(error) => {
                trail.reason = error.to_string();
                Err(match error {
                    UploadApiError::Misconfigured(_) => self.explain(&error),
                    _ => ProblemReply::later("unavailable", "the store did not answer", 2),
                })
            }
        }
    }
}

fn refuse(refusal: AuthError, trail: &mut AccessLog) -> ProblemReply {
    trail.reason = refusal.to_string();
    let code = if refusal.status() == 401 { "unauthorized" } else { "forbidden" };
    ProblemReply::new(refusal.status(), code, refusal.to_string())
}

/// With three decimals.
fn milliseconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1000.0
}
