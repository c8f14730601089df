//! The issuer's signing key: RS256, made at start, never stored.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::Value;

/// A key could not be made, or did not sign.
#[derive(Debug, thiserror::Error)]
#[error("signing key: {0}")]
pub struct KeyTrouble(String);

/// A private key and its public half.
pub struct SigningKey {
    key: EncodingKey,
    public: Jwk,
    kid: String,
}

impl SigningKey {
    /// Makes a 2,048-bit RSA key; takes some 100 ms of computing.
    ///
    /// # Errors
    /// [`KeyTrouble`] when the cryptographic library refuses.
    pub fn generate() -> Result<Self, KeyTrouble> {
        let trouble = |what: &str| KeyTrouble(what.to_owned());
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| trouble("not generated"))?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| trouble("not encoded"))?;
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let failed = |e: jsonwebtoken::errors::Error| KeyTrouble(e.to_string());
        let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(failed)?;
        let mut public = Jwk::from_encoding_key(&key, Algorithm::RS256).map_err(failed)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(failed)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { key, public, kid })
    }

    /// The public key, as served under `/.well-known/jwks.json`.
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: vec![self.public.clone()] }
    }

    /// The key's id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The same key under another id: for tests of those who verify.
    #[must_use]
    pub fn renamed(mut self, kid: &str) -> Self {
        self.kid = kid.to_owned();
        self.public.common.key_id = Some(self.kid.clone());
        self
    }

    /// Signs claims as a JWT.
    ///
    /// # Errors
    /// [`KeyTrouble`] when the cryptographic library refuses.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyTrouble> {
        let mut header = Header::new(Algorithm::RS256);
        header.typ = None;
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|e| KeyTrouble(e.to_string()))
    }
}

/// The S256 challenge that belongs to a PKCE verifier.
pub fn challenge(verifier: &str) -> String {
    use sha2::Digest as _;
    URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(verifier))
}
