//! The rules of API Gateway's JWT authorizer.
//!
//! As documented for HTTP APIs: the token comes from `$request.header.Authorization`, with or
//! without `Bearer `; its signature is checked with the issuer's public key of that `kid`, RS256
//! only; `iss` must be the configured issuer, `aud` (or, when there is none, `client_id`) one of
//! the audience; `exp` in the future, `nbf` and `iat` not. A route's scopes ask for one of them.

use std::collections::HashMap;

use axum::http::{HeaderMap, header};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

/// What an authorizer is configured with.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The `iss` demanded.
    pub issuer: String,
    /// App clients whose tokens are taken.
    pub audience: Vec<String>,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// There is no single Authorization header.
    #[error("no token")]
    Missing,
    /// Not three parts of base64url JSON, or with demands (`crit`) that are not understood.
    #[error("not a token")]
    Malformed,
    /// Not RS256.
    #[error("algorithm not allowed")]
    Algorithm,
    /// No key of that id; it may be newer than the keys at hand.
    #[error("unknown key id")]
    UnknownKey,
    /// Not signed by that key.
    #[error("bad signature")]
    Signature,
    /// Another issuer.
    #[error("another issuer")]
    Issuer,
    /// Another app client.
    #[error("another audience")]
    Audience,
    /// `exp` missing or past.
    #[error("expired")]
    Expired,
    /// `nbf` or `iat` in the future.
    #[error("not valid yet")]
    NotYet,
    /// 403: valid, but without the route's scope.
    #[error("scope missing")]
    Scope,
}

impl Denial {
    /// Status and body, as API Gateway gives them.
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Scope => (403, r#"{"message":"Forbidden"}"#),
            _ => (401, r#"{"message":"Unauthorized"}"#),
        }
    }
}

/// The token of a request.
///
/// # Errors
/// [`Denial::Missing`] without exactly one legible Authorization header.
pub fn identity(headers: &HeaderMap) -> Result<&str, Denial> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Denial::Missing);
    };
    let value = value.to_str().map_err(|_| Denial::Missing)?.trim();
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        Some(_) => return Err(Denial::Malformed),
        None => value,
    };
    if token.is_empty() { Err(Denial::Missing) } else { Ok(token) }
}

/// Verifies a token at `now` (seconds since the epoch) and returns its claims.
///
/// # Errors
/// The first [`Denial`] that applies.
pub fn verify(token: &str, keys: &JwkSet, policy: &Policy, now: i64) -> Result<Value, Denial> {
    let claims = signed_claims(token, keys)?;
    if claims["iss"] != policy.issuer.as_str() {
        return Err(Denial::Issuer);
    }
    let audience = match &claims["aud"] {
        Value::Null => &claims["client_id"],
        aud => aud,
    };
    let wanted = |v: &Value| policy.audience.iter().any(|a| v == a.as_str());
    let fits = match audience {
        Value::Array(all) => all.iter().any(wanted),
        one => wanted(one),
    };
    if !fits {
        return Err(Denial::Audience);
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
    let now = now as f64;
    if !claims["exp"].as_f64().is_some_and(|exp| exp > now) {
        return Err(Denial::Expired);
    }
    for name in ["nbf", "iat"] {
        if !claims[name].is_null() && !claims[name].as_f64().is_some_and(|at| at <= now) {
            return Err(Denial::NotYet);
        }
    }
    Ok(claims)
}

/// The claims of a token that one of the keys has signed with RS256.
fn signed_claims(token: &str, keys: &JwkSet) -> Result<Value, Denial> {
    // `alg: none` does not even parse: the library knows no such algorithm.
    let header = jsonwebtoken::decode_header(token).map_err(|_| Denial::Malformed)?;
    if header.alg != Algorithm::RS256 {
        return Err(Denial::Algorithm);
    }
    if header.crit.is_some() {
        return Err(Denial::Malformed);
    }
    let kid = header.kid.as_deref().ok_or(Denial::UnknownKey)?;
    let key = keys.find(kid).ok_or(Denial::UnknownKey)?;
    let key = DecodingKey::from_jwk(key).map_err(|_| Denial::UnknownKey)?;
    // Only the signature is left to the library: times are judged by our own clock.
    let mut validation = Validation::new(Algorithm::RS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    let token =
        jsonwebtoken::decode::<Value>(token, &key, &validation).map_err(|_| Denial::Signature)?;
    if token.claims.is_object() { Ok(token.claims) } else { Err(Denial::Malformed) }
}

/// Those of the route's scopes that the token carries; a route without scopes takes any token.
///
/// # Errors
/// [`Denial::Scope`] when the route has scopes and the token none of them.
pub fn scopes(claims: &Value, route: &[String]) -> Result<Vec<String>, Denial> {
    let granted = claims["scope"].as_str().or(claims["scp"].as_str()).unwrap_or_default();
    let shared: Vec<String> =
        route.iter().filter(|r| granted.split(' ').any(|g| g == *r)).cloned().collect();
    if route.is_empty() || !shared.is_empty() { Ok(shared) } else { Err(Denial::Scope) }
}

/// Claims as they reach a function: every value a string, an array as `[a b]`.
pub fn event_claims(claims: &Value) -> HashMap<String, String> {
    fn text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Array(all) => {
                format!("[{}]", all.iter().map(text).collect::<Vec<_>>().join(" "))
            }
            other => other.to_string(),
        }
    }
    let all = claims.as_object().into_iter().flatten();
    all.map(|(name, value)| (name.clone(), text(value))).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn where_the_token_stands() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("authorization", HeaderValue::from_str(value).unwrap());
            }
            identity(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer a.b.c"]).unwrap(), "a.b.c");
        assert_eq!(of(&["bearer  a.b.c "]).unwrap(), "a.b.c");
        assert_eq!(of(&["a.b.c"]).unwrap(), "a.b.c");
        assert_eq!(of(&[]), Err(Denial::Missing));
        assert_eq!(of(&[""]), Err(Denial::Missing));
        assert_eq!(of(&["Bearer a", "Bearer a"]), Err(Denial::Missing));
        assert_eq!(of(&["Basic YTpi"]), Err(Denial::Malformed));
    }

    #[test]
    fn scopes_of_a_route() {
        let claims = json!({"scope": "openid catchment/upload"});
        let route = |s: &str| scopes(&claims, &[s.to_owned()]);
        assert_eq!(route("catchment/upload").unwrap(), ["catchment/upload"]);
        assert_eq!(route("catchment/uploads"), Err(Denial::Scope));
        assert_eq!(route("catchment"), Err(Denial::Scope));
        assert!(scopes(&json!({}), &[]).unwrap().is_empty());
    }

    #[test]
    fn claims_arrive_as_text() {
        let claims = event_claims(&json!({"a": "x", "n": 12, "l": ["p", "q"], "b": true}));
        let get = |name: &str| claims[name].as_str();
        assert_eq!([get("a"), get("n"), get("l"), get("b")], ["x", "12", "[p q]", "true"]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(token in "[A-Za-z0-9_.=-]{0,80}", junk: String) {
            let keys = JwkSet { keys: vec![] };
            let policy = Policy { issuer: "i".into(), audience: vec!["a".into()] };
            prop_assert!(verify(&token, &keys, &policy, 0).is_err());
            prop_assert!(verify(&junk, &keys, &policy, 0).is_err());
        }
    }
}
