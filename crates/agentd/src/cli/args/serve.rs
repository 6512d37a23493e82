//! `agentd serve`.

use agentd_core::duration;
use clap::{Args, builder::NonEmptyStringValueParser};
use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(after_help = "\
Only this user can reach the socket. Clients by TCP need an API key (agentd key create), a
token or a certificate. On both, agentd speaks REST, gRPC and MCP. Policies and quotas are those
of `agentd call`; SIGHUP loads them and all files of TLS and tokens again.

Examples:
  agentd serve
  agentd serve --listen 127.0.0.1:7411
  agentd serve --listen 0.0.0.0:7411 --tls-cert cert.pem --tls-key key.pem
  curl --unix-socket ~/.local/share/agentd/serve/agentd.sock http://localhost/v1/capabilities")]
pub(crate) struct ServeArgs {
    /// Unix socket to listen on; its directory must be private [default: serve/agentd.sock in the data directory]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// TCP address to listen on too, e.g. 127.0.0.1:7411 (repeatable); without TLS, only a loopback address
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Vec<SocketAddr>,
    /// PEM file with the certificate of the TCP addresses, followed by those of its authorities
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "listen"])]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate, which nobody else may read
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "listen"])]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities whose certificates authenticate clients as services
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Issuer of JSON Web Tokens that authenticate users, as in the claim iss
    #[arg(long, value_name = "URL", requires_all = ["jwt_audience", "jwt_keys"], value_parser = issuer)]
    pub jwt_issuer: Option<String>,
    /// Audience that the tokens must have, as in the claim aud
    #[arg(long, value_name = "NAME", requires = "jwt_issuer", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_audience: Option<String>,
    /// JSON Web Key Set with the public keys of the issuer
    #[arg(long, value_name = "FILE", requires = "jwt_issuer")]
    pub jwt_keys: Option<PathBuf>,
    /// Host directory below which models and clients by TCP may name a workspace (repeatable) [default: none]
    #[arg(long, value_name = "DIR")]
    pub workspace: Vec<PathBuf>,
    /// Maximum number of connections at a time, on the socket and on each address; further clients wait
    #[arg(long, value_name = "NUMBER", default_value = "256")]
    pub max_connections: NonZeroUsize,
    /// Time that intents get to end by themselves when agentd is asked to stop, e.g. 30s
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    pub drain: Duration,
}

/// Parses the name of an issuer: a URL, which never is the beginning of the name of a user of this host.
fn issuer(text: &str) -> Result<String, String> {
    let is_good = text.starts_with("https://") && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good {
        Ok(text.to_owned())
    } else {
        Err("not a URL that begins with https:// — use the issuer of the tokens".to_owned())
    }
}
