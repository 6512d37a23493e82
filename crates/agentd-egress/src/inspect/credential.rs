//! Recognises credentials other than the secret of a host. With such a credential, a program could use an account of its own at
//! that host.
//!
//! A credential is recognised by the name of its header or of its parameter of the query. Names are compared by their letters and
//! digits only: servers that pass headers as variables (RFC 3875, 4.1.18) do not distinguish `-` and `_`, and the parameters
//! `apiKey`, `api_key` and `auth[token]` have the same meaning.

use super::error::InspectRefusal;
use hyper::{
    HeaderMap,
    header::{self, HeaderName},
};

/// Names of headers.
const HEADERS: &[&str] = &[
    "xauth",
    "xauthemail",
    "xkey",
    "xtoken",
    "xpat",
    "privatetoken",
    "jobtoken",
    "deploytoken",
    "circletoken",
    "xgitlabtoken",
    "xgithubtoken",
    "xvaulttoken",
    "xconsultoken",
    "xnomadtoken",
    "xfigmatoken",
    "xsubscriptiontoken",
    "xawsec2metadatatoken",
    "xserverlessauthorization",
    "xregistryauth",
    "xhoneycombteam",
    "xjfrogartapi",
    "xhasuraadminsecret",
    "xparsemasterkey",
    "xmsauthorizationauxiliary",
    "dpop",
];

/// Names of parameters of a query.
const PARAMETERS: &[&str] = &[
    "key",
    "token",
    "auth",
    "sig",
    "hmac",
    "pat",
    "pwd",
    "pass",
    "secret",
    "privatetoken",
    "jobtoken",
    "oauthtoken",
    "awsaccesskeyid",
    "googleaccessid",
    "jsessionid",
    "phpsessid",
];

/// The ends of names of both kinds.
const ENDINGS: &[&str] = &[
    "authorization",
    "apikey",
    "accesskey",
    "authkey",
    "secretkey",
    "applicationkey",
    "subscriptionkey",
    "functionskey",
    "restkey",
    "accesstoken",
    "apitoken",
    "apptoken",
    "authtoken",
    "bearertoken",
    "identitytoken",
    "idtoken",
    "refreshtoken",
    "securitytoken",
    "sessiontoken",
    "usertoken",
    "apisecret",
    "appsecret",
    "clientsecret",
    "credential",
    "credentials",
    "password",
    "passwd",
    "passphrase",
    "assertion",
    "signature",
    "jwt",
];

/// Parts of the name of a subprotocol of a WebSocket that carries a credential, as in `openai-insecure-api-key.VALUE`.
const IN_SUBPROTOCOL: &[&str] = &["apikey", "authorization", "bearer", "password", "secret", "token"];

/// The maximum length of a name in a message, in characters.
const MAX_NAME: usize = 64;

/// Refuses a request that has another credential than the secrets in the headers `own`, and removes its cookies.
///
/// Cookies are not refused, because clients return the ones that the server has set, such as those of a load balancer.
///
/// # Errors
/// A header, a parameter of the query or a subprotocol is a credential by its name.
pub(crate) fn refuse_others(own: &[&HeaderName], headers: &mut HeaderMap, query: &str) -> Result<(), InspectRefusal> {
    if !own.contains(&&header::COOKIE) {
        headers.remove(header::COOKIE);
    }
    let refused = |what: &str, name: &str| {
        let name: String = name.chars().take(MAX_NAME).collect();
        Err(InspectRefusal::OtherCredential { place: format!("{what} `{name}`") })
    };
    let reserved: Vec<String> = own.iter().map(|name| plain(name.as_str().as_bytes())).collect();
    for name in headers.keys().filter(|name| !own.contains(name)) {
        let word = plain(name.as_str().as_bytes());
        if is_one_of(HEADERS, &word) || reserved.contains(&word) {
            return refused("header", name.as_str());
        }
    }
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        let word = plain(value.as_bytes());
        if IN_SUBPROTOCOL.iter().any(|part| word.contains(part)) {
            return refused("header", header::SEC_WEBSOCKET_PROTOCOL.as_str());
        }
    }
    // Some servers also divide a query at semicolons.
    for parameter in query.split(['&', ';']) {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        let word = plain(&decoded(name));
        if is_one_of(PARAMETERS, &word) || reserved.contains(&word) {
            return refused("parameter", name);
        }
    }
    Ok(())
}

fn is_one_of(names: &[&str], word: &str) -> bool {
    names.contains(&word) || ENDINGS.iter().any(|ending| word.ends_with(ending))
}

/// Returns the letters and digits in lower case.
fn plain(name: &[u8]) -> String {
    name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|byte| char::from(byte.to_ascii_lowercase())).collect()
}

/// Decodes the escapes of a name (RFC 3986, 2.1). A `%` without two digits stays.
fn decoded(name: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut rest = name.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let value = (*first == b'%').then(|| Some(digit(after.first())? * 16 + digit(after.get(1))?)).flatten();
        let escaped = value.and_then(|value| u8::try_from(value).ok());
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inspect::{secret::SecretPlace, target::SecretUse},
        preset,
    };
    use proptest::prelude::*;

    fn check(own: &[&'static str], sent: &[(&str, &str)], query: &str) -> Result<HeaderMap, InspectRefusal> {
        let own: Vec<_> = own.iter().copied().map(HeaderName::from_static).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        refuse_others(&own.iter().collect::<Vec<_>>(), &mut headers, query).map(|()| headers)
    }

    fn header(own: &'static str, name: &str, value: &str) -> Result<HeaderMap, InspectRefusal> {
        check(&[own], &[(own, "the value"), (name, value)], "")
    }

    #[test]
    fn header_that_can_carry_a_credential_is_refused() {
        for name in [
            "X-Api-Key",
            "x_api_key",
            "Api-Key",
            "apikey",
            "X-Goog-Api-Key",
            "X-Auth-Token",
            "PRIVATE-TOKEN",
            "X-Amz-Security-Token",
            "X-Forwarded-Authorization",
            "Auth_orization",
            "Ocp-Apim-Subscription-Key",
            "CF-Access-Client-Secret",
            "Signature",
            "DPoP",
        ] {
            let refusal = header("authorization", name, "x").unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("the header `{}` ", name.to_ascii_lowercase())), "{refusal}");
        }
        assert!(header("x-api-key", "Authorization", "Bearer own").is_err());
        // The own header under a name that a server may take for it.
        assert!(header("x-own", "X_Own", "x").is_err() && header("x-own", "X-Other", "x").is_ok());
    }

    #[test]
    fn headers_of_clients_without_a_credential_pass() {
        for name in [
            "accept",
            "anthropic-beta",
            "anthropic-version",
            "content-type",
            "git-protocol",
            "idempotency-key",
            "if-none-match",
            "npm-auth-type",
            "openai-organization",
            "originator",
            "sec-websocket-key",
            "session_id",
            "user-agent",
            "x-csrf-token",
            "x-goog-api-client",
            "x-request-id",
            "x-stainless-retry-count",
        ] {
            assert!(header("authorization", name, "x").is_ok(), "{name}");
        }
        let two = check(&["authorization", "x-api-key"], &[("authorization", "a"), ("x-api-key", "b")], "");
        assert_eq!(two.unwrap().len(), 2, "each secret may have a header of its own");
    }

    #[test]
    fn header_of_every_preset_is_refused_at_the_host_of_another_secret() {
        let presets = preset::names().into_iter().map(|name| preset::Preset::find(name).unwrap());
        for secret in presets.flat_map(|preset| preset.secrets) {
            let SecretUse::Placed(SecretPlace::Header(name)) = secret.target.usage else { continue };
            assert!(header("x-own", &name, "x").is_err(), "{name}");
        }
    }

    #[test]
    fn parameter_of_the_query_that_can_carry_a_credential_is_refused() {
        for query in [
            "key=x",
            "a=1&apiKey=x",
            "a=1;api_key=x",
            "ACCESS_TOKEN=x",
            "%61pi_key=x",
            "api%5Fkey=x",
            "auth[token]=x",
            "auth%5Btoken%5D=x",
            "X-Amz-Signature=x",
            "token",
            "authorization=x",
        ] {
            assert!(matches!(check(&["x-own"], &[], query), Err(InspectRefusal::OtherCredential { .. })), "{query}");
        }
        for query in
            ["", "q=key", "page_token=x&alt=sse", "max_tokens=1", "%2561uth=x", "keys=1", "signature_algorithm=x", "%=%6"]
        {
            assert!(check(&["x-own"], &[], query).is_ok(), "{query}");
        }
        assert!(check(&["x-own"], &[], "x_own=x").is_err());
    }

    #[test]
    fn cookies_are_removed_and_subprotocols_with_a_credential_are_refused() {
        assert!(!header("authorization", "Cookie", "session=own").unwrap().contains_key("cookie"));
        assert!(header("cookie", "x-other", "x").unwrap().contains_key("cookie"));
        let subprotocol = |value: &str| header("authorization", "sec-websocket-protocol", value);
        assert!(subprotocol("realtime, openai-insecure-api-key.sk-own").is_err());
        assert!(subprotocol("graphql-transport-ws").is_ok());
    }

    proptest! {
        #[test]
        fn any_query_is_read_without_a_panic(query in "[ -~]{0,40}") {
            let _ = check(&["x-own"], &[], &query);
        }
    }
}
