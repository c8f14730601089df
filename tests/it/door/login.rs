//! The login, through the same form a browser would fill in.

use catchment::local::door::issuer::keys::challenge;
use serde_json::{Value, json};

use super::http::{Answer, form, send};
use super::{World, world};

const CALLBACK: &str = "http://localhost:3000/";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

fn query(world: &World, change: &[(&str, &str)]) -> String {
    let challenge = challenge(VERIFIER);
    let mut pairs = vec![
        ("response_type", "code"),
        ("client_id", world.door.client_id.as_str()),
        ("redirect_uri", CALLBACK),
        ("scope", "openid email catchment/upload"),
        ("state", "st&te \"ü\""),
        ("nonce", "n-1"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in change {
        pairs.retain(|(n, _)| n != name);
        if !value.is_empty() {
            pairs.push((name, value));
        }
    }
    form(&pairs)
}

async fn authorize(world: &World, query: &str) -> Answer {
    send("GET", &format!("{}/oauth2/authorize?{query}", world.door.login_url), &[], "").await
}

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

async fn log_in(world: &World, query: &str, password: &str) -> Answer {
    let url = format!("{}/login?{query}", world.door.login_url);
    let body = form(&[("username", "dev"), ("password", password)]);
    send("POST", &url, &[FORM], body).await
}

async fn code(world: &World, query: &str) -> String {
    let answer = log_in(world, query, "catchment").await;
    assert_eq!(answer.status, 302, "{answer:?}");
    let location = answer.header("location").unwrap();
    assert!(location.starts_with("http://localhost:3000/?code="), "{location}");
    let rest = location.split("code=").nth(1).unwrap();
    rest.split('&').next().unwrap().to_owned()
}

async fn token(world: &World, pairs: &[(&str, &str)]) -> Answer {
    let mut all = vec![
        ("grant_type", "authorization_code"),
        ("client_id", world.door.client_id.as_str()),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    for (name, value) in pairs {
        all.retain(|(n, _)| n != name);
        all.push((name, value));
    }
    send("POST", &format!("{}/oauth2/token", world.door.login_url), &[FORM], form(&all)).await
}

fn claims(token: &Value) -> Value {
    use base64::Engine as _;
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[tokio::test]
async fn from_the_login_form_to_a_stored_file() {
    let world = world().await;
    let query = query(&world, &[]);
    let first = authorize(&world, &query).await;
    assert_eq!(first.status, 303);
    assert_eq!(first.header("location").unwrap(), format!("/login?{query}"));
    let page = send("GET", &format!("{}/login?{query}", world.door.login_url), &[], "").await;
    assert_eq!(page.status, 200);
    for part in
        ["<form method=\"post\"", "<label for=\"username\"", "name=\"password\"", "lang=\"en\""]
    {
        assert!(page.text().contains(part), "{part}");
    }
    assert!(!page.text().contains("<script"));
    let wrong = log_in(&world, &query, "wrong").await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.text().contains("role=\"alert\""));

    let answer = log_in(&world, &query, "catchment").await;
    let location = answer.header("location").unwrap();
    assert!(location.ends_with("&state=st%26te%20%22%C3%BC%22"), "{location}");
    let code = code(&world, &query).await;
    let tokens = token(&world, &[("code", &code)]).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let tokens = tokens.json();
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(3600)));

    let access = claims(&tokens["access_token"]);
    for name in ["sub", "iss", "client_id", "scope", "exp", "iat", "jti", "username", "auth_time"] {
        assert!(!access[name].is_null(), "{name}");
    }
    assert_eq!(access["token_use"], "access");
    assert!(access["aud"].is_null(), "Cognito's access tokens have no audience");
    let id = claims(&tokens["id_token"]);
    assert_eq!(id["token_use"], "id");
    assert_eq!(id["aud"], world.door.client_id.as_str());
    assert_eq!(id["email"], "dev@example.com");
    assert_eq!(id["nonce"], "n-1");

    let bearer = tokens["access_token"].as_str().unwrap();
    let upload = world.upload(bearer, &[], "hello").await;
    assert_eq!(upload.status, 200);
    world.stub.store_all();
    let key = upload.json()["file_key"].as_str().unwrap().to_owned();
    assert_eq!(world.look_up(bearer, &key).await.json()["status"], "stored");
    // The id token has no scope, and the routes ask for one.
    let id_token = tokens["id_token"].as_str().unwrap();
    assert_eq!(world.upload(id_token, &[], "x").await.status, 403);

    let url = format!("{}/oauth2/userInfo", world.door.login_url);
    let bearer = format!("Bearer {bearer}");
    let info = send("GET", &url, &[("authorization", &bearer)], "").await.json();
    assert_eq!((&info["username"], &info["sub"]), (&json!("dev"), &access["sub"]));
    assert_eq!(send("GET", &url, &[], "").await.status, 401);

    let refresh = tokens["refresh_token"].as_str().unwrap();
    assert_eq!(refresh.split('.').count(), 1, "opaque");
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
    let again = token(&world, &pairs).await.json();
    assert!(again["access_token"].is_string() && again["refresh_token"].is_null());
    let revoke = form(&[("token", refresh), ("client_id", &world.door.client_id)]);
    let url = format!("{}/oauth2/revoke", world.door.login_url);
    assert_eq!(send("POST", &url, &[FORM], revoke).await.status, 200);
    assert_eq!(token(&world, &pairs).await.json()["error"], "invalid_grant");
}

#[tokio::test]
async fn codes_are_good_once_for_their_owner() {
    let world = world().await;
    let query = query(&world, &[]);
    let fail = async |pairs: &[(&str, &str)], error: &str| {
        let answer = token(&world, pairs).await;
        assert_eq!((answer.status, answer.json()), (400, json!({"error": error})), "{pairs:?}");
    };
    let good = code(&world, &query).await;
    let tokens = token(&world, &[("code", &good)]).await.json();
    fail(&[("code", &good)], "invalid_grant").await;
    let refresh = tokens["refresh_token"].as_str().unwrap();
    fail(&[("grant_type", "refresh_token"), ("refresh_token", refresh)], "invalid_grant").await;

    for spoilt in [
        ("code_verifier", "wrong"),
        ("code_verifier", ""),
        ("redirect_uri", "http://localhost:3000"),
        ("redirect_uri", "http://localhost:3000/x"),
    ] {
        let code = code(&world, &query).await;
        fail(&[("code", &code), spoilt], "invalid_grant").await;
        fail(&[("code", &code)], "invalid_grant").await;
    }
    let code = code(&world, &query).await;
    fail(&[("code", &code), ("client_id", "other")], "invalid_client").await;
    fail(&[("grant_type", "password"), ("code", &code)], "unsupported_grant_type").await;
    fail(&[("code", "")], "invalid_grant").await;
}

#[tokio::test]
async fn a_browser_is_sent_back_only_where_it_may_go() {
    let world = world().await;
    for bad in [
        ("redirect_uri", "http://localhost:3000/evil"),
        ("redirect_uri", "https://evil.example/"),
        ("redirect_uri", "http://localhost:3000/?x"),
        ("redirect_uri", ""),
        ("client_id", "other"),
        ("client_id", ""),
    ] {
        let query = query(&world, &[bad]);
        for answer in [authorize(&world, &query).await, log_in(&world, &query, "catchment").await] {
            assert_eq!(answer.status, 400, "{bad:?}");
            assert!(answer.header("location").is_none());
        }
    }
    for (bad, error) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("scope", "openid admin"), "invalid_scope"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge", "short"), "invalid_request"),
    ] {
        let answer = authorize(&world, &query(&world, &[bad])).await;
        assert_eq!(answer.status, 302, "{bad:?}");
        let location = answer.header("location").unwrap();
        assert!(location.starts_with(&format!("{CALLBACK}?error={error}&state=")), "{location}");
    }
    // Another site's form does not log a browser in.
    let url = format!("{}/login?{}", world.door.login_url, query(&world, &[]));
    let body = form(&[("username", "dev"), ("password", "catchment")]);
    let answer =
        send("POST", &url, &[FORM, ("origin", "https://evil.example")], body.clone()).await;
    assert_eq!(answer.status, 403);
    let answer = send("POST", &url, &[FORM, ("origin", &world.door.login_url)], body).await;
    assert_eq!(answer.status, 302);
}

#[tokio::test]
async fn without_pkce_as_cognito_allows() {
    let world = world().await;
    let query =
        query(&world, &[("code_challenge", ""), ("code_challenge_method", ""), ("scope", "")]);
    let code = code(&world, &query).await;
    let body = form(&[
        ("grant_type", "authorization_code"),
        ("client_id", &world.door.client_id),
        ("redirect_uri", CALLBACK),
        ("code", &code),
    ]);
    let url = format!("{}/oauth2/token", world.door.login_url);
    let tokens = send("POST", &url, &[FORM], body).await.json();
    let scope = claims(&tokens["access_token"])["scope"].as_str().unwrap().to_owned();
    assert!(scope.contains("catchment/upload"), "no scope asked is all scopes: {scope}");
}

#[tokio::test]
async fn discovery_points_at_itself() {
    let world = world().await;
    let url = format!("{}/.well-known/openid-configuration", world.door.issuer_url);
    let found = send("GET", &url, &[], "").await.json();
    assert_eq!(found["issuer"], world.door.issuer_url.as_str());
    let keys = send("GET", found["jwks_uri"].as_str().unwrap(), &[], "").await.json();
    assert_eq!(
        (&keys["keys"][0]["kty"], &keys["keys"][0]["alg"]),
        (&json!("RSA"), &json!("RS256"))
    );
    assert!(keys["keys"][0]["d"].is_null(), "nothing private");
}

/// The three lines, pasted into bash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tour_works_when_pasted() {
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        println!("SKIPPED: there is no curl");
        return;
    }
    let world = world().await;
    let tour = world.door.tour();
    assert_eq!(tour.len(), 3);
    let script = tour.join("\n");
    println!("{script}");
    let output =
        tokio::process::Command::new("bash").arg("-c").arg(&script).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("\"message\":\"File uploaded and event sent\""));
    assert_eq!(world.stub.events()[0].body, b"Hello, Catchment");
}

#[tokio::test]
async fn the_try_page_is_served_with_a_strict_policy() {
    let world = world().await;
    for path in ["/try", "/", "/?code=abc"] {
        let page = send("GET", &format!("{}{path}", world.door.api_url), &[], "").await;
        assert_eq!(page.status, 200);
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!page.text().contains("{{"), "every placeholder is filled");
        assert!(page.text().contains(&world.door.login_url));
        for outside in ["https://", "src=\"", "@import"] {
            assert!(!page.text().contains(outside), "works offline: {outside}");
        }
    }
}
