//! SDK errors into [`CallError`].

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::request_id::RequestId;

use crate::fault::{CallError, Detail, Fault};

/// Describes a failed call.
pub(crate) fn describe<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> CallError
where
    E: std::error::Error + ProvideErrorMetadata + RequestId + Send + Sync + 'static,
{
    let status = error.raw_response().map(|r| r.status().as_u16());
    let (fault, code) = match error {
        SdkError::ConstructionFailure(_) => (Fault::Denied, "ConstructionFailure".to_owned()),
        SdkError::TimeoutError(_) => (Fault::Unavailable, "Timeout".to_owned()),
        SdkError::DispatchFailure(f) if f.as_connector_error().is_some_and(|c| c.is_user()) => {
            (Fault::Invalid, "DispatchFailure".to_owned())
        }
        SdkError::DispatchFailure(_) if lacks_credentials(error) => {
            let fault = if may_come(error) { Fault::Unavailable } else { Fault::Denied };
            (fault, "NoCredentials".to_owned())
        }
        SdkError::DispatchFailure(_) => (Fault::Unavailable, "DispatchFailure".to_owned()),
        SdkError::ServiceError(_) => {
            let code = error.code().unwrap_or_default();
            // The words of AWS for a clock that is off; the SDK corrects it from the reply, unless
            // this was its last attempt.
            let skewed = code == "InvalidSignatureException"
                && error.message().is_some_and(|m| {
                    m.contains("Signature expired") || m.contains("Signature not yet current")
                });
            (
                if skewed { Fault::Unavailable } else { by_code(code, status) },
                if code.is_empty() {
                    format!("HTTP {}", status.unwrap_or(0))
                } else {
                    code.to_owned()
                },
            )
        }
        _ => (Fault::Unavailable, "ResponseError".to_owned()),
    };
    let message = match (error, error.message()) {
        (SdkError::ServiceError(_), Some(message)) => message.to_owned(),
        _ => chain(error),
    };
    // rustls' word for a certificate by nobody it trusts.
    let message = match message.contains("UnknownIssuer") {
        true => {
            format!("{message}; if a proxy opens TLS here, let AWS_CA_BUNDLE name its authority")
        }
        false => message,
    };
    let detail = detail(operation, fault, &code, &message);
    let request_id = error.request_id().map(str::to_owned);
    CallError { operation, fault, detail, code, message, request_id }
}

/// What an error and its causes say, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |e| e.source()) {
        let text = cause.to_string();
        if !told.iter().any(|t| t.contains(&text)) {
            told.push(text);
        }
    }
    told.join(": ")
}

/// A source that was asked over the network, a metadata service for instance, may have them later: it
/// is late at boot. Where none was to be asked, waiting does not help.
fn may_come(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_disabled = |name| std::env::var(name).is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    let text = chain(error);
    !is_disabled("AWS_EC2_METADATA_DISABLED") && !text.contains("IMDS disabled")
}

/// No provider of the chain has credentials.
fn lacks_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|cause| {
        matches!(cause.downcast_ref(), Some(CredentialsError::CredentialsNotLoaded(_)))
    })
}

/// What the code, or where services have no code for it the message, says beyond the kind.
pub(super) fn detail(operation: &str, fault: Fault, code: &str, message: &str) -> Detail {
    match code {
        "ResourceInUseException" => Detail::Occupied,
        "NoCredentials" => Detail::NoCredentials,
        "ExpiredToken" | "ExpiredTokenException" => Detail::ExpiredCredentials,
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "MissingAuthenticationTokenException" => Detail::UnknownCredentials,
        "PermanentRedirect" => Detail::OtherRegion,
        "NoSuchUpload" | "InvalidPart" => Detail::UploadGone,
        _ if fault == Fault::Denied && (code.contains("KMS") || message.contains("kms:")) => {
            Detail::EncryptionKey
        }
        // AT_TIMESTAMP in the future is an invalid argument.
        _ if fault == Fault::Invalid
            && operation == "GetShardIterator"
            && message.to_ascii_lowercase().contains("timestamp") =>
        {
            Detail::FutureStart
        }
        _ => Detail::Plain,
    }
}

pub(super) fn by_code(code: &str, status: Option<u16>) -> Fault {
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "KMSThrottlingException"
        | "TooManyRequestsException" => Fault::Throttled,
        "ExpiredIteratorException" => Fault::ExpiredIterator,
        "ResourceNotFoundException"
        | "NoSuchBucket"
        | "NoSuchKey"
        | "NoSuchUpload"
        | "NotFound" => Fault::NotFound,
        "AccessDenied"
        | "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "MissingAuthenticationTokenException"
        | "KMSAccessDeniedException"
        | "PermanentRedirect"
        | "AllAccessDisabled" => Fault::Denied,
        // A skewed clock heals by itself: the SDK corrects it from the reply.
        "RequestTimeTooSkewed"
        | "RequestExpired"
        | "RequestTimeout"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "ConditionalRequestConflict"
        | "OperationAborted"
        | "ResourceInUseException" => Fault::Unavailable,
        _ => match status {
            Some(429) => Fault::Throttled,
            Some(401 | 403) => Fault::Denied,
            Some(404) => Fault::NotFound,
            Some(400..=499) => Fault::Invalid,
            _ => Fault::Unavailable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_more_than_their_kind() {
        let of = |code: &str, message: &str| {
            let fault = by_code(code, Some(400));
            (fault, detail("GetShardIterator", fault, code, message))
        };
        for (code, message, fault, detail) in [
            ("ResourceInUseException", "", Fault::Unavailable, Detail::Occupied),
            ("ExpiredTokenException", "", Fault::Denied, Detail::ExpiredCredentials),
            ("InvalidAccessKeyId", "", Fault::Denied, Detail::UnknownCredentials),
            ("KMSAccessDeniedException", "", Fault::Denied, Detail::EncryptionKey),
            ("AccessDenied", "not allowed: kms:Decrypt", Fault::Denied, Detail::EncryptionKey),
            ("AccessDenied", "", Fault::Denied, Detail::Plain),
            ("NoSuchUpload", "", Fault::NotFound, Detail::UploadGone),
            ("InvalidPart", "", Fault::Invalid, Detail::UploadGone),
            ("InvalidArgumentException", "timestampInMillis", Fault::Invalid, Detail::FutureStart),
            ("InvalidArgumentException", "other", Fault::Invalid, Detail::Plain),
        ] {
            assert_eq!(of(code, message), (fault, detail), "{code} {message}");
        }
    }

    /// Whatever a person must mend names its remedy.
    #[test]
    fn what_waits_for_a_person_has_a_remedy() {
        for code in ["AccessDenied", "ExpiredToken", "SignatureDoesNotMatch", "PermanentRedirect"] {
            let fault = by_code(code, None);
            let remedy = detail("GetRecords", fault, code, "").remedy().or(fault.remedy());
            assert!(!fault.is_transient() && remedy.is_some(), "{code}");
        }
    }
}
