//! The refusal table.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catchment::local::door::issuer::keys::SigningKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::http::{Answer, send};
use super::{World, world, world_with};

fn b64(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

async fn jwk(world: &World) -> Value {
    let url = format!("{}/.well-known/jwks.json", world.door.issuer_url);
    send("GET", &url, &[], "").await.json()["keys"][0].clone()
}

fn assert_plain(answer: &Answer, status: u16, message: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.json(), json!({"message": message}));
}

#[tokio::test]
async fn every_bad_token_is_refused_and_stores_nothing() {
    let world = world().await;
    let issuer = world.door.issuer();
    let now = world.claims()["iat"].as_i64().unwrap();
    let change = |name: &str, value: Value| {
        let mut claims = world.claims();
        claims[name] = value;
        issuer.sign(&claims).unwrap()
    };
    let without = |name: &str| {
        let mut claims = world.claims();
        claims.as_object_mut().unwrap().remove(name);
        issuer.sign(&claims).unwrap()
    };
    let good = world.token();
    let parts: Vec<&str> = good.split('.').collect();
    let mut raised = world.claims();
    raised["sub"] = json!("somebody else");
    let headed = |header: Value| format!("{}.{}", b64(&header), parts[1]);
    let kid = issuer.kid();
    let key = jwk(&world).await;
    let n = URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap();
    let hs256 = |secret: &[u8]| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, &world.claims(), &EncodingKey::from_secret(secret)).unwrap()
    };
    let foreign = SigningKey::generate().unwrap().renamed(kid);
    let other_pool = format!("{}_other", world.door.issuer_url);

    let table = [
        ("garbage", "garbage".to_owned()),
        ("three parts of garbage", "a.b.c".to_owned()),
        ("tampered payload", format!("{}.{}.{}", parts[0], b64(&raised), parts[2])),
        ("tampered signature", format!("{}.{}.{}", parts[0], parts[1], &parts[2][4..])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none", format!("{}.", headed(json!({"alg": "none", "kid": kid})))),
        (
            "alg None, signed",
            format!("{}.{}", headed(json!({"alg": "None", "kid": kid})), parts[2]),
        ),
        ("HS256 with the modulus", hs256(&n)),
        ("HS256 with the JWK", hs256(key.to_string().as_bytes())),
        ("RS512 claimed", format!("{}.{}", headed(json!({"alg": "RS512", "kid": kid})), parts[2])),
        ("foreign key, same kid", foreign.sign(&world.claims()).unwrap()),
        ("unknown kid", SigningKey::generate().unwrap().sign(&world.claims()).unwrap()),
        ("no kid", format!("{}.{}", headed(json!({"alg": "RS256"})), parts[2])),
        ("other client", change("client_id", json!("other-client"))),
        ("no client", without("client_id")),
        ("other audience", change("aud", json!("other-client"))),
        ("other pool", change("iss", json!(other_pool))),
        ("issuer with a slash", change("iss", json!(format!("{}/", world.door.issuer_url)))),
        ("no issuer", without("iss")),
        ("expired", change("exp", json!(now - 1))),
        ("no expiry", without("exp")),
        ("expiry as text", change("exp", json!("9999999999"))),
        ("not before", change("nbf", json!(now + 60))),
        ("issued in the future", change("iat", json!(now + 60))),
    ];
    for (name, token) in &table {
        println!("{name}");
        assert_plain(&world.upload(token, &[], "x").await, 401, "Unauthorized");
        let answer = world.look_up(token, "uploads/a.txt").await;
        assert_plain(&answer, 401, "Unauthorized");
    }
    let url = format!("{}/uploads", world.door.api_url);
    for headers in [
        &[][..],
        &[("authorization", "")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic ZGV2OmRldg==")],
        &[("authorization", &good), ("authorization", &good)],
        &[("x-authorization", &good)],
        &[("authorization", "Bearer \u{e4}.\u{f6}.\u{fc}")],
    ] {
        assert_plain(&send("POST", &url, headers, "x").await, 401, "Unauthorized");
    }
    let in_query = send("POST", &format!("{url}?authorization={good}"), &[], "x").await;
    assert_plain(&in_query, 401, "Unauthorized");

    for (name, token) in [
        ("scope missing", change("scope", json!("openid email"))),
        ("scope of a longer name", change("scope", json!("catchment/uploads"))),
        ("no scope", without("scope")),
    ] {
        println!("{name}");
        assert_plain(&world.upload(&token, &[], "x").await, 403, "Forbidden");
    }
    assert_eq!(world.stub.seen(|s| s.calls), 0, "nothing reached the stream");

    // Good ones, with and without `Bearer`.
    assert_eq!(world.upload(&good, &[], "x").await.status, 200);
    assert_eq!(send("POST", &url, &[("authorization", &good)], "x").await.status, 200);
}

#[tokio::test]
async fn the_handler_looks_again_where_routes_ask_no_scope() {
    let world = world_with(|o| o.scope = None).await;
    let sign = |change: &dyn Fn(&mut Value)| {
        let mut claims = world.claims();
        change(&mut claims);
        world.door.issuer().sign(&claims).unwrap()
    };
    // The gateway's rules take these; the handler's do not.
    let refresh = sign(&|c| c["token_use"] = json!("refresh"));
    super::assert_error(&world.upload(&refresh, &[], "x").await, 401, "unauthorized");
    let nobody = sign(&|c| c["sub"] = json!(""));
    super::assert_error(&world.upload(&nobody, &[], "x").await, 401, "unauthorized");
    let mixed = sign(&|c| {
        c["aud"] = json!([world.door.client_id]);
        c["client_id"] = json!("other");
    });
    super::assert_error(&world.upload(&mixed, &[], "x").await, 403, "forbidden");
    assert_eq!(world.stub.seen(|s| s.calls), 0);

    let id = sign(&|c| {
        c["aud"] = c["client_id"].take();
        c["token_use"] = json!("id");
        c["scope"] = Value::Null;
    });
    assert_eq!(world.upload(&id, &[], "x").await.status, 200);
}

#[tokio::test]
async fn only_routes_exist_and_only_local_names_answer() {
    let world = world().await;
    let api = &world.door.api_url;
    for (method, path) in [
        ("GET", "/uploads"),
        ("PUT", "/uploads"),
        ("DELETE", "/uploads/a"),
        ("POST", "/uploads/a"),
        ("GET", "/uploads/a/b"),
        ("GET", "/uploads/../etc"),
        ("GET", "/.env"),
        ("OPTIONS", "/uploads"),
    ] {
        let answer = send(method, &format!("{api}{path}"), &[], "").await;
        assert_plain(&answer, 404, "Not Found");
    }
    let strange = send("GET", &format!("{api}/try"), &[("host", "evil.example")], "").await;
    assert_eq!(strange.status, 421);
    let strange = send("GET", &world.door.login_url, &[("host", "evil.example:80")], "").await;
    assert_eq!(strange.status, 421);
}

#[tokio::test]
async fn browsers_of_known_origins_may_call() {
    let world = world().await;
    let url = format!("{}/uploads", world.door.api_url);
    let ask = async |origin: &str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        send("OPTIONS", &url, &headers, "").await
    };
    let known = ask("http://localhost:3000").await;
    assert_eq!(known.status, 204);
    assert_eq!(known.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert!(known.header("access-control-allow-headers").unwrap().contains("idempotency-key"));
    let unknown = ask("https://evil.example").await;
    assert_eq!(unknown.status, 204);
    assert_eq!(unknown.header("access-control-allow-origin"), None);
}
