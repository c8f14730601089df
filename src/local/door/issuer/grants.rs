//! Codes and refresh tokens: handed out once, taken back once, forgotten in time.

use std::collections::HashMap;

use super::keys::challenge;

/// Who logged in, for which client, with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The user's name.
    pub username: String,
    /// The app client.
    pub client_id: String,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// The `nonce` to repeat in the id token.
    pub nonce: Option<String>,
    /// When the user typed the password, seconds since the epoch.
    pub auth_time: i64,
}

struct Code {
    grant: Grant,
    redirect_uri: String,
    challenge: Option<String>,
    expires: i64,
    /// The refresh token it was exchanged for.
    spent_for: Option<String>,
}

/// The OAuth error `invalid_grant`, with a reason for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// Never issued, or long gone.
    #[error("unknown code or token")]
    Unknown,
    /// Used before; what it had been exchanged for is revoked.
    #[error("the code was used before")]
    Reused,
    /// Too late.
    #[error("the code or token has expired")]
    Expired,
    /// Issued to another client.
    #[error("issued to another client")]
    Client,
    /// Not the redirect it was issued for.
    #[error("the redirect_uri differs from the one at authorization")]
    Redirect,
    /// PKCE failed.
    #[error("the code_verifier does not match")]
    Verifier,
}

/// What a client brings to the token endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The code.
    pub code: &'a str,
    /// The client.
    pub client_id: &'a str,
    /// The redirect, again.
    pub redirect_uri: &'a str,
    /// PKCE.
    pub verifier: Option<&'a str>,
}

/// All grants of one issuer.
#[derive(Default)]
pub struct Grants {
    codes: HashMap<String, Code>,
    refresh: HashMap<String, (Grant, i64)>,
}

impl Grants {
    /// Notes a fresh code.
    pub fn issue(
        &mut self,
        code: String,
        grant: Grant,
        redirect_uri: String,
        challenge: Option<String>,
        expires: i64,
    ) {
        // A spent code is kept for an hour, so that its reuse is noticed.
        self.codes.retain(|_, c| c.expires + 3600 > expires);
        let code_ = Code { grant, redirect_uri, challenge, expires, spent_for: None };
        self.codes.insert(code, code_);
    }

    /// Exchanges a code for its grant; `refresh` becomes the grant's refresh token.
    ///
    /// A code is spent by the first attempt, right or wrong, so that a verifier cannot be guessed.
    ///
    /// # Errors
    /// [`InvalidGrant`].
    pub fn redeem(
        &mut self,
        now: i64,
        exchange: Exchange<'_>,
        refresh: String,
        refresh_expires: i64,
    ) -> Result<Grant, InvalidGrant> {
        let code = self.codes.get_mut(exchange.code).ok_or(InvalidGrant::Unknown)?;
        if let Some(issued) = &code.spent_for {
            self.refresh.remove(issued);
            return Err(InvalidGrant::Reused);
        }
        code.spent_for = Some(refresh.clone());
        if now >= code.expires {
            return Err(InvalidGrant::Expired);
        }
        if code.grant.client_id != exchange.client_id {
            return Err(InvalidGrant::Client);
        }
        if code.redirect_uri != exchange.redirect_uri {
            return Err(InvalidGrant::Redirect);
        }
        if code.challenge.as_deref() != exchange.verifier.map(challenge).as_deref() {
            return Err(InvalidGrant::Verifier);
        }
        self.refresh.insert(refresh, (code.grant.clone(), refresh_expires));
        Ok(code.grant.clone())
    }

    /// The grant behind a refresh token.
    ///
    /// # Errors
    /// [`InvalidGrant`].
    pub fn refresh(&self, now: i64, token: &str, client_id: &str) -> Result<Grant, InvalidGrant> {
        let (grant, expires) = self.refresh.get(token).ok_or(InvalidGrant::Unknown)?;
        if now >= *expires {
            return Err(InvalidGrant::Expired);
        }
        if grant.client_id != client_id {
            return Err(InvalidGrant::Client);
        }
        Ok(grant.clone())
    }

    /// Forgets a refresh token.
    pub fn revoke(&mut self, token: &str, client_id: &str) {
        if self.refresh.get(token).is_some_and(|(grant, _)| grant.client_id == client_id) {
            self.refresh.remove(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(challenge: Option<&str>) -> Grants {
        let mut grants = Grants::default();
        let grant = Grant {
            username: "dev".into(),
            client_id: "web".into(),
            scopes: vec![],
            nonce: None,
            auth_time: 0,
        };
        grants.issue("c".into(), grant, "http://r/".into(), challenge.map(str::to_owned), 60);
        grants
    }

    const GOOD: Exchange<'_> = Exchange {
        code: "c",
        client_id: "web",
        redirect_uri: "http://r/",
        verifier: Some("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    };
    /// From RFC 7636, appendix B.
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    #[test]
    fn once_and_only_once() {
        let mut grants = grants(Some(CHALLENGE));
        assert_eq!(grants.redeem(1, GOOD, "r".into(), 99).unwrap().username, "dev");
        assert!(grants.refresh(2, "r", "web").is_ok());
        assert_eq!(grants.refresh(2, "r", "other"), Err(InvalidGrant::Client));
        assert_eq!(grants.refresh(99, "r", "web"), Err(InvalidGrant::Expired));
        assert_eq!(grants.redeem(2, GOOD, "s".into(), 99), Err(InvalidGrant::Reused));
        assert_eq!(grants.refresh(3, "r", "web"), Err(InvalidGrant::Unknown), "revoked by reuse");
    }

    #[test]
    fn what_is_refused() {
        let pkce = || grants(Some(CHALLENGE));
        let check = |mut grants: Grants, now, exchange, why| {
            assert_eq!(grants.redeem(now, exchange, "r".into(), 99), Err(why));
            assert!(grants.refresh(now, "r", "web").is_err());
            let again = grants.redeem(1, GOOD, "s".into(), 99);
            assert!(why == InvalidGrant::Unknown || again.is_err(), "an attempt spends the code");
        };
        check(pkce(), 60, GOOD, InvalidGrant::Expired);
        check(pkce(), 1, Exchange { code: "d", ..GOOD }, InvalidGrant::Unknown);
        check(pkce(), 1, Exchange { client_id: "x", ..GOOD }, InvalidGrant::Client);
        check(pkce(), 1, Exchange { redirect_uri: "http://r", ..GOOD }, InvalidGrant::Redirect);
        check(pkce(), 1, Exchange { verifier: Some("wrong"), ..GOOD }, InvalidGrant::Verifier);
        check(pkce(), 1, Exchange { verifier: None, ..GOOD }, InvalidGrant::Verifier);
        check(grants(None), 1, GOOD, InvalidGrant::Verifier);
    }

    #[test]
    fn revocation_needs_the_client() {
        let mut grants = grants(Some(CHALLENGE));
        grants.redeem(1, GOOD, "r".into(), 99).unwrap();
        grants.revoke("r", "other");
        assert!(grants.refresh(2, "r", "web").is_ok());
        grants.revoke("r", "web");
        assert!(grants.refresh(2, "r", "web").is_err());
    }
}
