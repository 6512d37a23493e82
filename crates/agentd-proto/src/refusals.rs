//! The codes of gRPC for the reasons why a request has no outcome.

use tonic::Code;

/// The domain of the reasons, in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "agentd";

/// The reason of an error that the caller can do nothing about.
pub const INTERNAL: &str = "internal";

/// The codes of gRPC by reason. The reasons of intents that are refused are the words that receipts and the audit log contain.
pub const CODES: [(&str, Code); 35] = [
    ("unknown-capability", Code::NotFound),
    ("outside-scope", Code::PermissionDenied),
    ("invalid-parameters", Code::InvalidArgument),
    ("invalid-network", Code::InvalidArgument),
    ("key-conflict", Code::AlreadyExists),
    ("denied", Code::PermissionDenied),
    ("exceeds-policy", Code::PermissionDenied),
    ("quota-exceeded", Code::ResourceExhausted),
    ("not-approved", Code::PermissionDenied),
    ("approval-expired", Code::FailedPrecondition),
    ("cancelled", Code::Cancelled),
    ("invalid-request", Code::InvalidArgument),
    ("invalid-workspace", Code::InvalidArgument),
    ("unlisted-workspace", Code::PermissionDenied),
    ("deadline-exceeded", Code::DeadlineExceeded),
    ("unauthenticated", Code::Unauthenticated),
    ("too-many-failures", Code::ResourceExhausted),
    ("unknown-intent", Code::NotFound),
    ("not-an-approver", Code::PermissionDenied),
    ("no-approval", Code::NotFound),
    ("approval-decided", Code::FailedPrecondition),
    ("unknown-sandbox", Code::NotFound),
    ("unknown-snapshot", Code::NotFound),
    ("sandbox-exists", Code::AlreadyExists),
    ("snapshot-exists", Code::AlreadyExists),
    ("sandbox-lost", Code::Aborted),
    ("too-many-sandboxes", Code::ResourceExhausted),
    ("reserved-name", Code::InvalidArgument),
    ("invalid-content", Code::InvalidArgument),
    ("failed", Code::FailedPrecondition),
    ("interrupted", Code::Aborted),
    ("result-lost", Code::DataLoss),
    ("busy", Code::Unavailable),
    ("stopping", Code::Unavailable),
    (INTERNAL, Code::Internal),
];

/// Returns the code of a reason. A reason that the table lacks is a refusal of a newer engine.
pub fn code(reason: &str) -> Code {
    CODES.iter().find(|(word, _)| *word == reason).map_or(Code::FailedPrecondition, |(_, code)| *code)
}
