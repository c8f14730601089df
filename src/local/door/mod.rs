//! The front door on loopback: issuer, gateway and handler, started together.

pub mod gateway;
pub mod gateway_jwt;
pub mod issuer;
mod jwks;
mod loopback;

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::aws::front_door::{UploadApi, UploadApiConfig, UploadStream};
use crate::aws::transport::Transport;
use crate::clock::{Clock, Jitter};
use crate::front_door::claims::AuthPolicy;
use crate::front_door::handler::{Handler, HandlerConfig};
use crate::task::{Handle, Tasks};
use gateway::GatewayOptions;
use gateway_jwt::Policy;
use issuer::keys::challenge;
use issuer::{Issuer, IssuerOptions, IssuerUser};

const TRY_PAGE: &str = include_str!("assets/try.html");
/// Where the tour's login sends the browser back to.
const CALLBACK: &str = "http://localhost:3000/";

/// What to start.
#[derive(Debug, Clone)]
pub struct FrontDoorOptions {
    /// Port of the issuer; 0 picks a free one.
    pub issuer_port: u16,
    /// Port of the API and the `/try` page; 0 picks a free one.
    pub gateway_port: u16,
    /// The Kinesis that takes the events.
    pub kinesis_endpoint: String,
    /// The S3 that uploads end up in.
    pub s3_endpoint: String,
    /// How both are reached.
    pub transport: Transport,
    /// Region to sign for.
    pub region: String,
    /// Key id and secret for both.
    pub credentials: (String, String),
    /// The stream.
    pub stream: String,
    /// The bucket.
    pub bucket: String,
    /// The stream's record limit.
    pub max_record_bytes: usize,
    /// How long the handler goes on trying to put an event.
    pub put_deadline: Duration,
    /// Who can log in.
    pub users: Vec<IssuerUser>,
    /// Further addresses a login may return to.
    pub redirect_uris: Vec<String>,
    /// The scope demanded by the routes.
    pub scope: Option<String>,
}

impl FrontDoorOptions {
    /// The usual, for emulators at these addresses.
    pub fn new(kinesis_endpoint: &str, s3_endpoint: &str, stream: &str, bucket: &str) -> Self {
        Self {
            issuer_port: 0,
            gateway_port: 0,
            kinesis_endpoint: kinesis_endpoint.into(),
            s3_endpoint: s3_endpoint.into(),
            transport: Transport::default(),
            region: "us-east-1".into(),
            credentials: ("local".into(), "local".into()),
            stream: stream.into(),
            bucket: bucket.into(),
            max_record_bytes: 1 << 20,
            put_deadline: Duration::from_secs(8),
            users: IssuerOptions::default().users,
            redirect_uris: Vec::new(),
            scope: Some("catchment/upload".into()),
        }
    }
}

/// A running front door.
pub struct FrontDoor {
    /// The issuer (`iss`); discovery is below it.
    pub issuer_url: String,
    /// Login and token endpoints are below this.
    pub login_url: String,
    /// The API: POST here or to `/uploads`.
    pub api_url: String,
    /// The page for a browser.
    pub try_url: String,
    /// The app client.
    pub client_id: String,
    issuer: Issuer,
    gateway: Handle<()>,
    stop: CancellationToken,
    users: Vec<IssuerUser>,
    verifier: String,
}

impl FrontDoor {
    /// Starts issuer and gateway; both answer when this returns.
    ///
    /// # Errors
    /// When a port is taken or the issuer's key cannot be made.
    pub async fn start(
        options: FrontDoorOptions,
        tasks: &Tasks,
        clock: Clock,
        jitter: Jitter,
    ) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (issuer_listener, _) = loopback::bind(options.issuer_port).await?;
        let (listener, port) = loopback::bind(options.gateway_port).await?;
        let origins = [format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}")];

        let mut issuing = IssuerOptions { users: options.users.clone(), ..Default::default() };
        let client_id = issuing.client_id.clone();
        issuing.redirect_uris.extend(origins.iter().map(|o| format!("{o}/try")));
        issuing.redirect_uris.extend(options.redirect_uris.iter().cloned());
        let issuer = Issuer::start(
            issuer_listener,
            issuing,
            tasks,
            clock.clone(),
            jitter.clone(),
            stop.clone(),
        )
        .await?;

        let scope = options.scope.clone();
        let gateway_options = GatewayOptions {
            policy: Policy { issuer: issuer.issuer_url(), audience: vec![client_id.clone()] },
            route_scopes: scope.clone().into_iter().collect(),
            allow_origins: [&origins[..], &["http://localhost:3000".to_owned()]].concat(),
            try_page: Some(
                TRY_PAGE
                    .replace("{{login_url}}", issuer.origin())
                    .replace("{{client_id}}", &client_id),
            ),
            connect_src: issuer.origin().to_owned(),
        };
        let handler = handler(&options, &client_id, &clock, &jitter);
        let router = gateway::router(gateway_options, handler, clock, jitter.clone())
            .map_err(io::Error::other)?;
        let gateway = loopback::serve(tasks, "gateway", listener, router, stop.clone());
        let api_url = origins[0].clone();
        Ok(Self {
            issuer_url: issuer.issuer_url(),
            login_url: issuer.origin().to_owned(),
            try_url: format!("{api_url}/try"),
            api_url,
            client_id,
            issuer,
            gateway,
            stop,
            users: options.users,
            verifier: jitter.secret(),
        })
    }

    /// Three lines for a shell: get a code, exchange it, upload. They need curl and bash only.
    pub fn tour(&self) -> Vec<String> {
        let Some(user) = self.users.first() else {
            return Vec::new();
        };
        let (login, api, client) = (&self.login_url, &self.api_url, &self.client_id);
        let (verifier, challenge) = (&self.verifier, challenge(&self.verifier));
        let query = format!(
            "response_type=code&client_id={client}&redirect_uri={CALLBACK}\
             &scope=openid+catchment/upload&code_challenge={challenge}&code_challenge_method=S256"
        );
        vec![
            format!(
                "CODE=$(curl -s -o /dev/null -w '%{{redirect_url}}' --data-urlencode {} \
                 --data-urlencode {} '{login}/login?{query}'); CODE=${{CODE##*code=}}; \
                 CODE=${{CODE%%&*}}; echo \"$CODE\"",
                quote(&format!("username={}", user.username)),
                quote(&format!("password={}", user.password)),
            ),
            format!(
                "TOKEN=$(curl -s -d grant_type=authorization_code -d client_id={client} \
                 -d code=\"$CODE\" -d redirect_uri={CALLBACK} -d code_verifier={verifier} \
                 {login}/oauth2/token); TOKEN=${{TOKEN#*\\\"access_token\\\":\\\"}}; \
                 TOKEN=${{TOKEN%%\\\"*}}; echo \"${{TOKEN:0:20}}...\""
            ),
            format!(
                "curl -s -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: text/plain' \
                 --data-binary 'Hello, Catchment' {api}/uploads; echo"
            ),
        ]
    }

    /// The issuer, for tests that need tokens no login would give.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Stops accepting, lets requests in flight end, and waits for them.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.gateway.await;
        self.issuer.stopped().await;
    }
}

fn handler(options: &FrontDoorOptions, client_id: &str, clock: &Clock, jitter: &Jitter) -> Handler {
    let door = UploadApi::new(UploadApiConfig {
        stream: UploadStream::Name(options.stream.clone()),
        bucket: Some(options.bucket.clone()),
        region: options.region.clone(),
        kinesis_endpoint: Some(options.kinesis_endpoint.clone()),
        s3_endpoint: Some(options.s3_endpoint.clone()),
        transport: options.transport.clone(),
        attempt_timeout: options.put_deadline,
        credentials: Some(options.credentials.clone()),
    });
    let config = HandlerConfig {
        max_record_bytes: options.max_record_bytes,
        put_deadline: options.put_deadline,
        demands: AuthPolicy {
            client_ids: vec![client_id.to_owned()],
            scope: options.scope.clone(),
            any_token_use: false,
        },
    };
    Handler::new(door, config, clock.clone(), jitter.clone())
}

/// One word for a POSIX shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
