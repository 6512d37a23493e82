//! Requests a URL from an HTTP server, over the network of the sandbox.
//!
//! The gateway outside of the sandbox decides which hosts are reached. This program decides nothing that protects the host: it
//! keeps the limits of its caller, and sends no credential to another host. [`target`], [`headers`] and [`redirect`] are
//! functions from values to values; [`exchange`] uses the network.

mod exchange;
mod headers;
pub(crate) mod message;
mod redirect;
pub(crate) mod target;

use crate::{
    byte_string::ByteString,
    error::{ErrorCode, ToolError},
    limits,
    response::Truncation,
};
use exchange::{causes, failed, send};
use http_body_util::BodyExt;
use hyper::{
    Method, Response,
    body::{Bytes, Incoming},
    header::LOCATION,
};
use message::{FetchRequest, FetchResult, FetchedHeader};
use redirect::WebRequest;
use std::time::Duration;
use target::{WebHost, WebUrl};
use tokio::time::{Instant, timeout_at};

/// Carries out a request with this body. Returns the body of the response too.
pub(crate) fn fetch(request: &FetchRequest, body: Vec<u8>) -> Result<(FetchResult, Vec<u8>), ToolError> {
    let first = WebRequest {
        url: WebUrl::parse(&request.url)?,
        method: method(&request.method)?,
        headers: headers::of(request, &|name| std::env::var(name).ok())?,
        body: Bytes::from(body),
        followed: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ToolError::new(ErrorCode::System, format!("fetch: {error}")))?;
    let fetched = runtime.block_on(until_last(request, first));
    // A look-up of a name may still wait for its answer.
    runtime.shutdown_background();
    fetched
}

/// Returns a method that concerns the resource, and not the connection.
fn method(text: &str) -> Result<Method, ToolError> {
    let known = text.parse::<Method>().ok().filter(|method| ![Method::CONNECT, Method::TRACE].contains(method));
    let plain =
        known.filter(|method| method.as_str().len() <= 32 && method.as_str().bytes().all(|byte| byte.is_ascii_uppercase()));
    plain.ok_or_else(|| {
        ToolError::new(ErrorCode::Invalid, "method: not an HTTP method in capital letters, such as GET, or not allowed")
    })
}

/// Follows redirects, and returns the last response.
async fn until_last(request: &FetchRequest, first: WebRequest) -> Result<(FetchResult, Vec<u8>), ToolError> {
    let time = Duration::from_millis(limits::TIME_MS.of(request.time_ms));
    let end = Instant::now() + time;
    let late = |host: &WebHost| {
        let why = format!("{host} has not answered within {} ms — raise `time_ms`", time.as_millis());
        ToolError::new(ErrorCode::Limit, why)
    };
    let mut current = first;
    loop {
        let response = timeout_at(end, send(&current)).await.map_err(|_| late(&current.url.host))??;
        match current.after(request, response.status(), response.headers().get(LOCATION))? {
            Some(next) => current = next,
            None => return last(request, current, response, end).await,
        }
    }
}

/// Reads the body of the last response, within its limits.
async fn last(
    request: &FetchRequest,
    sent: WebRequest,
    response: Response<Incoming>,
    end: Instant,
) -> Result<(FetchResult, Vec<u8>), ToolError> {
    let (head, mut body) = response.into_parts();
    let max = usize::try_from(limits::READ.of(request.max_bytes)).unwrap_or(usize::MAX);
    let (mut content, mut truncated) = (Vec::new(), None);
    loop {
        let frame = match timeout_at(end, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(|error| failed(&sent.url.host, "read the response of", &causes(&error)))?,
            Ok(None) => break,
            Err(_) => {
                truncated = Some(Truncation::Time);
                break;
            }
        };
        // Trailers are left out.
        let Ok(data) = frame.into_data() else { continue };
        let kept = data.len().min(max - content.len());
        content.extend_from_slice(&data[..kept]);
        if kept < data.len() {
            truncated = Some(Truncation::Bytes);
            break;
        }
    }
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| FetchedHeader {
        name: name.as_str().to_owned(),
        value: ByteString::from(value.as_bytes()),
    };
    let result = FetchResult {
        status: head.status.as_u16(),
        url: sent.url.as_str().to_owned(),
        headers: head.headers.iter().map(header).collect(),
        redirects: sent.followed,
        length: content.len() as u64,
        truncated,
    };
    Ok((result, content))
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
