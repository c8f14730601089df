//! In what GetRecords is spoken, and when CBOR is given up for JSON.
//!
//! CBOR (`application/x-amz-cbor-1.1`) is what AWS's Java SDK speaks to Kinesis, but it is described
//! nowhere and emulators differ. So it is a switch, and whoever does not understand it, or is not
//! understood, is asked again in JSON. Reading with an iterator changes nothing: the second reply
//! holds the same records, and of the first none was used.

/// `stream.wire`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WireFormat {
    /// awsJson1.1.
    #[default]
    Json,
    /// x-amz-cbor-1.1: not proven on the real service.
    Cbor,
}

/// Why a call in CBOR is made again in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The service did not take it.
    Refused,
    /// The reply could not be read.
    Unreadable,
    /// Its arrival times are no milliseconds of the present.
    Implausible,
}

impl Fallback {
    /// Label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Implausible => "implausible",
        }
    }
}

/// Errors by which the service shows that it understood a GetRecords request (Amazon Kinesis API
/// reference, GetRecords and Common Errors, and what its front end answers for signatures).
const UNDERSTOOD: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredIteratorException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidArgumentException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "KMSAccessDeniedException",
    "KMSDisabledException",
    "KMSInvalidStateException",
    "KMSNotFoundException",
    "KMSOptInRequired",
    "KMSThrottlingException",
    "LimitExceededException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "ProvisionedThroughputExceededException",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "ResourceNotFoundException",
    "SignatureDoesNotMatch",
    "Throttling",
    "ThrottlingException",
    "UnrecognizedClientException",
];

/// Replies that could not be read before a client no longer asks in CBOR: each costs the shard's
/// readers a call and its bytes.
const STRIKES: u32 = 3;

/// What a client knows of the service's CBOR.
#[derive(Debug, Default)]
pub struct CborBreaker {
    /// A reply in CBOR was read.
    proven: bool,
    strikes: u32,
    over: bool,
}

impl CborBreaker {
    /// The client stays with JSON.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// A reply in CBOR was read.
    pub fn prove(&mut self) {
        self.proven = true;
    }

    /// Whether an error (HTTP status and code) may be about the form of the request. As long as no
    /// reply in CBOR was read, that is also every server error.
    pub fn doubts(&self, status: u16, code: Option<&str>) -> bool {
        match status {
            429 => false,
            400..=499 => !code.is_some_and(|code| UNDERSTOOD.contains(&code)),
            500.. => !self.proven,
            _ => false,
        }
    }

    /// A call was made again in JSON; `answered`: with success. `true` if the client stays with
    /// JSON from now on, and did not before.
    pub fn fell_back(&mut self, why: Fallback, answered: bool) -> bool {
        match why {
            // Refused in JSON as well: it was not about the form.
            Fallback::Refused if !answered => return false,
            Fallback::Refused => self.strikes = STRIKES,
            Fallback::Unreadable | Fallback::Implausible => self.strikes += 1,
        }
        let over = self.strikes >= STRIKES;
        over && !std::mem::replace(&mut self.over, over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_understood_is_no_reason_to_doubt() {
        let new = CborBreaker::default();
        for code in ["ExpiredIteratorException", "ProvisionedThroughputExceededException"] {
            assert!(!new.doubts(400, Some(code)), "{code}");
        }
        assert!(!new.doubts(429, None));
        for (status, code) in [
            (415, None),
            (400, Some("SerializationException")),
            (400, Some("UnknownOperationException")),
            (404, Some("")),
            (500, Some("InternalFailure")),
        ] {
            assert!(new.doubts(status, code), "{status} {code:?}");
        }
        let proven = CborBreaker { proven: true, ..CborBreaker::default() };
        assert!(!proven.doubts(503, None));
        assert!(proven.doubts(415, None));
    }

    #[test]
    fn a_refusal_ends_it_once_and_only_if_json_is_taken() {
        let mut trust = CborBreaker::default();
        assert!(!trust.fell_back(Fallback::Refused, false) && !trust.is_over());
        assert!(trust.fell_back(Fallback::Refused, true) && trust.is_over());
        assert!(!trust.fell_back(Fallback::Refused, true), "told once");
    }

    #[test]
    fn replies_that_cannot_be_read_end_it_in_time() {
        let mut trust = CborBreaker::default();
        assert!(!trust.fell_back(Fallback::Implausible, true));
        assert!(!trust.fell_back(Fallback::Unreadable, false) && !trust.is_over());
        assert!(trust.fell_back(Fallback::Unreadable, true) && trust.is_over());
    }
}
