//! The environment variables of OpenTelemetry that decide where spans are exported
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).

use percent_encoding::percent_decode_str;
use std::time::Duration;

/// The path of spans below a base endpoint.
const TRACES: &str = "/v1/traces";

/// The longest export. The outcome of an intent does not wait for it, but the end of the process does.
const MAX_EXPORT: Duration = Duration::from_secs(1);

/// The maximum length of a variable, and the maximum number of its members.
const MAX_VARIABLE: usize = 8 << 10;
const MAX_MEMBERS: usize = 64;

/// Where and how spans are exported. There is no debug form, because headers may be secrets.
pub struct ExportSettings {
    pub(crate) endpoint: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) timeout: Duration,
    /// The attributes of this process.
    pub(crate) resource: Vec<(String, String)>,
}

/// A variable has a value that agentd does not support. The message does not contain the value, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct InvalidVariable {
    variable: &'static str,
    problem: &'static str,
}

impl ExportSettings {
    /// Returns the settings of these variables; `None` if they request no export. `get` returns the value of a variable.
    ///
    /// # Errors
    /// [`InvalidVariable`]. Nothing is exported then.
    pub fn of(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, InvalidVariable> {
        // An empty variable is the same as none.
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(_) => return Err(invalid("OTEL_TRACES_EXPORTER", "agentd has no such exporter — set otlp or none")),
        }
        let Some(endpoint) = endpoint(&get)? else { return Ok(None) };
        let of_traces = |name: &'static str, general: &'static str| match get(name) {
            Some(value) => Some((name, value)),
            None => get(general).map(|value| (general, value)),
        };
        if let Some((name, value)) = of_traces("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
            && value != "http/json"
        {
            return Err(invalid(name, "agentd exports by http/json only — set http/json, which collectors accept on port 4318"));
        }
        let headers = match of_traces("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS") {
            Some((name, value)) => members(name, &value)?,
            None => Vec::new(),
        };
        let timeout = match of_traces("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT") {
            Some((name, value)) => value.parse().map(Duration::from_millis).map_err(|_| invalid(name, "not a number of ms"))?,
            None => MAX_EXPORT,
        };
        let mut resource = match get("OTEL_RESOURCE_ATTRIBUTES") {
            Some(value) => members("OTEL_RESOURCE_ATTRIBUTES", &value)?,
            None => Vec::new(),
        };
        let service = get("OTEL_SERVICE_NAME").filter(|name| name.len() <= MAX_VARIABLE);
        let is_named = resource.iter().any(|(name, _)| name == "service.name");
        if service.is_some() || !is_named {
            resource.retain(|(name, _)| name != "service.name");
            resource.insert(0, ("service.name".to_owned(), service.unwrap_or_else(|| "agentd".to_owned())));
        }
        Ok(Some(Self { endpoint, headers, timeout: timeout.min(MAX_EXPORT), resource }))
    }
}

fn invalid(variable: &'static str, problem: &'static str) -> InvalidVariable {
    InvalidVariable { variable, problem }
}

fn endpoint(get: &impl Fn(&str) -> Option<String>) -> Result<Option<String>, InvalidVariable> {
    let (variable, url) = match (get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), get("OTEL_EXPORTER_OTLP_ENDPOINT")) {
        (Some(url), _) => ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url),
        (None, Some(base)) => ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{}{TRACES}", base.trim_end_matches('/'))),
        (None, None) => return Ok(None),
    };
    let is_url = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    if is_url && url.len() <= MAX_VARIABLE { Ok(Some(url)) } else { Err(invalid(variable, "not an http or https URL")) }
}

/// Returns the members of a list `key=value,…` whose values are percent-encoded.
fn members(variable: &'static str, text: &str) -> Result<Vec<(String, String)>, InvalidVariable> {
    let member = |member: &str| {
        let (key, value) = member.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((key.trim().to_owned(), value.into_owned())).filter(|(key, _)| !key.is_empty())
    };
    let all = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(member).collect::<Option<Vec<_>>>();
    all.filter(|all| text.len() <= MAX_VARIABLE && all.len() <= MAX_MEMBERS)
        .ok_or(invalid(variable, "not a list of KEY=VALUE — separate members by commas, and percent-encode values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<ExportSettings>, InvalidVariable> {
        ExportSettings::of(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_if_export_is_disabled() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_EXPORTER_OTLP_HEADERS", "a=b"), ("OTEL_SERVICE_NAME", "a")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "True")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(of(variables).unwrap().is_none(), "{variables:?}");
        }
    }

    #[test]
    fn variables_for_traces_have_precedence() {
        let found = of(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!((found.endpoint.as_str(), found.timeout), ("http://collector:4318/v1/traces", MAX_EXPORT));
        assert_eq!(found.resource, [("service.name".to_owned(), "agentd".to_owned())]);
        let found = of(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/x"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "key=a%20b%3D, other = c"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "7"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ci,host.name=h"),
            ("OTEL_SERVICE_NAME", "own"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ]);
        let found = found.unwrap().unwrap();
        assert_eq!((found.endpoint.as_str(), found.timeout), ("https://other/x", Duration::from_millis(7)));
        let text = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(found.headers, text(&[("key", "a b="), ("other", "c")]));
        assert_eq!(found.resource, text(&[("service.name", "own"), ("host.name", "h")]));
        let slow = of(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")]).unwrap().unwrap();
        assert_eq!(slow.timeout, MAX_EXPORT);
    }

    #[test]
    fn unsupported_value_is_refused_without_being_repeated() {
        let long = "a=b,".repeat(4000);
        for variable in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "canary:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "canary"),
            ("OTEL_TRACES_EXPORTER", "canary"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "canary"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%ff"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "canary"),
            ("OTEL_RESOURCE_ATTRIBUTES", &long),
        ] {
            let error = of(&[variable, ENDPOINT]).err().unwrap().to_string();
            assert!(error.starts_with(variable.0) && !error.contains("canary"), "{error}");
        }
    }
}
