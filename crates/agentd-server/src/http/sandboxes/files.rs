//! Reads and writes files in sandboxes.

use super::{
    super::{body, problem::Problem, state::HttpState},
    operate, parsed,
};
use crate::{
    caller::Caller,
    sandboxes::{FilePart, WrittenFile, request},
};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;

/// Which part of a file is read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct FileQuery {
    /// The absolute path in the sandbox.
    path: String,
    /// The number of bytes before the part.
    offset: Option<u64>,
    /// The most bytes of the part; 1 MiB unless stated.
    #[param(minimum = 1, maximum = 8388608)]
    length: Option<u64>,
}

/// The new content of a file, in one of two encodings.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct FileBody {
    /// The absolute path in the sandbox.
    path: String,
    /// The content as text.
    text: Option<String>,
    /// The content in base64.
    base64: Option<String>,
}

/// Reads a part of a file in a sandbox.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{sandbox}/file",
    params(("sandbox" = String, Path, description = "The name"), FileQuery),
    responses(
        (status = OK, body = FilePart, description = "The part"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn read(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
    query: Result<Query<FileQuery>, QueryRejection>,
) -> Result<Json<FilePart>, Problem> {
    let FileQuery { path, offset, length } = parsed(query)?;
    let parameters = json!({ "sandbox": sandbox, "path": path, "offset": offset, "length": length });
    operate(&state, caller, &headers, request("read", parameters)).await
}

/// Writes a file in a sandbox.
#[utoipa::path(
    put,
    path = "/v1/sandboxes/{sandbox}/file",
    params(("sandbox" = String, Path, description = "The name")),
    request_body = FileBody,
    responses(
        (status = OK, body = WrittenFile, description = "The file was written"),
        (status = "4XX", body = Problem, content_type = "application/problem+json", description = "The request is refused"),
    )
)]
pub(in super::super) async fn write(
    State(state): State<HttpState>,
    Extension(caller): Extension<Caller>,
    Path(sandbox): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<WrittenFile>, Problem> {
    let FileBody { path, text, base64 } = body::received(&state, &headers, body).await?;
    let parameters = json!({ "sandbox": sandbox, "path": path, "text": text, "base64": base64 });
    operate(&state, caller, &headers, request("write", parameters)).await
}
