//! Sends ended spans to a collector by OTLP/HTTP.

use crate::{otlp, settings::ExportSettings, span_queue::EndedSpan};
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};

/// The reason why spans were not exported. No message contains the endpoint or a header, which may contain secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A header cannot be sent.
    #[error("export spans: a header of OTEL_EXPORTER_OTLP_HEADERS cannot be sent — use the names and values of HTTP headers")]
    Header,
    /// The collector was not reached, or did not answer in time.
    #[error("export spans: {} — start the collector, or unset OTEL_EXPORTER_OTLP_ENDPOINT", cause(.0))]
    Request(#[from] reqwest::Error),
    /// The collector refused the spans.
    #[error("export spans: the collector answered {0} — check its address and OTEL_EXPORTER_OTLP_HEADERS")]
    Refused(StatusCode),
}

/// Returns the innermost cause, which names the failed operation of the network.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the collector did not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Sends spans to the collector of the settings.
pub struct SpanExporter {
    settings: ExportSettings,
}

impl SpanExporter {
    /// Returns an exporter. It connects only to export.
    pub fn new(settings: ExportSettings) -> Self {
        Self { settings }
    }

    /// Sends spans. Waits no longer than the settings allow, and does not try again: the caller decides about spans that were not
    /// received.
    ///
    /// # Errors
    /// [`ExportError`].
    pub async fn export(&self, spans: &[EndedSpan]) -> Result<(), ExportError> {
        if spans.is_empty() {
            return Ok(());
        }
        let ExportSettings { endpoint, timeout, resource, .. } = &self.settings;
        // A process has one cryptography provider. If there is one already, it is used.
        rustls::crypto::ring::default_provider().install_default().ok();
        // A redirect could send the headers to another host.
        let client = Client::builder().timeout(*timeout).redirect(Policy::none()).build().map_err(reqwest::Error::without_url)?;
        let request = client.post(endpoint).headers(self.headers()?).body(otlp::request(resource, spans).to_string());
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        if response.status().is_success() { Ok(()) } else { Err(ExportError::Refused(response.status())) }
    }

    fn headers(&self) -> Result<HeaderMap, ExportError> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.settings.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| ExportError::Header)?;
            let mut value = HeaderValue::from_str(value).map_err(|_| ExportError::Header)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(headers)
    }
}

#[cfg(test)]
#[path = "exporter_tests.rs"]
mod tests;
