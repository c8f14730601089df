//! Who may upload: the second look at a token's claims.
//!
//! API Gateway's authorizer has verified the token before the function runs. The function refuses
//! all the same when an event carries no claims, so that a route published without its authorizer,
//! or an invocation past the gateway, stores nothing.

use std::collections::HashMap;

use crate::upload::event::subject_hash;

/// What a deployment demands of its callers.
#[derive(Debug, Clone, Default)]
pub struct AuthPolicy {
    /// App clients that may call; empty: any the authorizer let through.
    pub client_ids: Vec<String>,
    /// A scope the token must carry.
    pub scope: Option<String>,
    /// Take tokens without Cognito's `token_use` claim (another identity provider).
    pub any_token_use: bool,
}

/// A caller, reduced to what the upload needs. Holds no identity in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Hash of issuer and subject.
    pub subject: String,
}

/// Why a caller is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// 401: the event carries no verified claims.
    #[error("no verified token came with the request")]
    NoClaims,
    /// 401: not a token of a person or app client.
    #[error("the token names no subject")]
    NoSubject,
    /// 401: neither an access nor an id token.
    #[error("the token is neither an access nor an id token")]
    TokenUse,
    /// 403: another app client's token.
    #[error("the token was issued to another app client")]
    Client,
    /// 403: the scope is missing.
    #[error("the token lacks the required scope")]
    Scope,
}

impl AuthError {
    /// The HTTP status it becomes.
    pub fn status(self) -> u16 {
        match self {
            Self::NoClaims | Self::NoSubject | Self::TokenUse => 401,
            Self::Client | Self::Scope => 403,
        }
    }
}

/// Judges the claims of `requestContext.authorizer.jwt` (`None`: there was no authorizer).
///
/// # Errors
/// [`AuthError`], the first that applies.
pub fn admit(
    claims: Option<&HashMap<String, String>>,
    scopes: &[String],
    demands: &AuthPolicy,
) -> Result<Caller, AuthError> {
    let claims = claims.filter(|c| !c.is_empty()).ok_or(AuthError::NoClaims)?;
    let claim = |name: &str| claims.get(name).map(String::as_str).filter(|v| !v.is_empty());
    let subject = claim("sub").ok_or(AuthError::NoSubject)?;
    let clients = match claim("token_use") {
        Some("access") => list(claim("client_id")),
        Some("id") => list(claim("aud")),
        None if demands.any_token_use => {
            [list(claim("client_id")), list(claim("aud")), list(claim("azp"))].concat()
        }
        _ => return Err(AuthError::TokenUse),
    };
    if !demands.client_ids.is_empty()
        && !clients.iter().any(|c| demands.client_ids.iter().any(|d| d == c))
    {
        return Err(AuthError::Client);
    }
    if let Some(required) = &demands.scope {
        let granted = list(claim("scope"));
        if !granted.contains(&required.as_str()) && !scopes.contains(required) {
            return Err(AuthError::Scope);
        }
    }
    Ok(Caller { subject: subject_hash(claim("iss").unwrap_or_default(), subject) })
}

/// API Gateway writes a claim that is an array as `[a b]`; scopes are separated by spaces.
fn list(claim: Option<&str>) -> Vec<&str> {
    claim
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']')
        .split([' ', ','])
        .filter(|c| !c.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn demands() -> AuthPolicy {
        AuthPolicy {
            client_ids: vec!["web".into()],
            scope: Some("catchment/upload".into()),
            any_token_use: false,
        }
    }

    const ACCESS: [(&str, &str); 5] = [
        ("iss", "https://pool"),
        ("sub", "1234"),
        ("token_use", "access"),
        ("client_id", "web"),
        ("scope", "openid catchment/upload"),
    ];

    #[test]
    fn an_access_token_is_admitted_by_hash() {
        let caller = admit(Some(&claims(&ACCESS)), &[], &demands()).unwrap();
        assert_eq!(caller.subject, subject_hash("https://pool", "1234"));
    }

    #[test]
    fn the_refusal_table() {
        let change = |name: &str, value: Option<&str>| {
            let mut all = claims(&ACCESS);
            match value {
                Some(v) => all.insert(name.into(), v.into()),
                None => all.remove(name),
            };
            admit(Some(&all), &[], &demands()).unwrap_err()
        };
        assert_eq!(admit(None, &[], &demands()), Err(AuthError::NoClaims));
        assert_eq!(admit(Some(&HashMap::new()), &[], &demands()), Err(AuthError::NoClaims));
        assert_eq!(change("sub", None), AuthError::NoSubject);
        assert_eq!(change("sub", Some("")), AuthError::NoSubject);
        assert_eq!(change("token_use", None), AuthError::TokenUse);
        assert_eq!(change("token_use", Some("refresh")), AuthError::TokenUse);
        assert_eq!(change("token_use", Some("id")), AuthError::Client, "client_id is no audience");
        assert_eq!(change("client_id", Some("other")), AuthError::Client);
        assert_eq!(change("client_id", None), AuthError::Client);
        assert_eq!(change("scope", Some("catchment/uploads openid")), AuthError::Scope);
        assert_eq!(change("scope", None), AuthError::Scope);
        assert_eq!([AuthError::NoClaims.status(), AuthError::Scope.status()], [401, 403]);
    }

    #[test]
    fn id_tokens_and_other_providers() {
        let only_client = AuthPolicy { scope: None, ..demands() };
        let id = claims(&[("sub", "1"), ("token_use", "id"), ("aud", "web")]);
        assert!(admit(Some(&id), &[], &only_client).is_ok());
        let other = claims(&[("sub", "1"), ("aud", "[api web]")]);
        assert_eq!(admit(Some(&other), &[], &only_client), Err(AuthError::TokenUse));
        let relaxed = AuthPolicy { any_token_use: true, ..only_client };
        assert!(admit(Some(&other), &[], &relaxed).is_ok());
    }

    #[test]
    fn scopes_may_come_from_the_authorizer() {
        let mut all = claims(&ACCESS);
        all.remove("scope");
        assert!(admit(Some(&all), &["catchment/upload".to_owned()], &demands()).is_ok());
    }

    proptest! {
        #[test]
        fn nobody_enters_without_client_and_scope(
            pairs in proptest::collection::hash_map("(sub|iss|token_use|client_id|aud|scope)",
                "(access|id|web |other|catchment/upload|\\[|\\]| |x){0,3}", 0..6)
        ) {
            if admit(Some(&pairs), &[], &demands()).is_ok() {
                let has = |name: &str, what: &str| pairs.get(name).is_some_and(|v| v.contains(what));
                prop_assert!(has("client_id", "web") || has("aud", "web"));
                prop_assert!(has("scope", "catchment/upload"));
                prop_assert!(!pairs["sub"].is_empty());
            }
        }
    }
}
