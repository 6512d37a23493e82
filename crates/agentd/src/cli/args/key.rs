//! `agentd key`.

use agentd_core::duration;
use agentd_server::auth::Interface;
use clap::{Args, Subcommand};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create an API key for a service, and print it; it cannot be printed again
    Create(CreateKeyArgs),
    /// Print a token that permits less than an API key or a token; standard input has the latter
    Restrict(RestrictKeyArgs),
    /// List the API keys
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke an API key; its next request is refused
    Revoke {
        /// The identifier of the key, or at least its first four digits, as `agentd key ls` prints it
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
The holder of the key is the principal service:NAME in policies and records. The default policy
permits nothing to services: write policies for them (docs/authentication.md).

Examples:
  agentd key create ci --expires 90d
  agentd key create reader --expires 1d --capability fs.read.v1 --transport rest")]
pub(crate) struct CreateKeyArgs {
    /// Name of the service; it may have several keys
    #[arg(value_name = "NAME", value_parser = name)]
    pub name: String,
    /// Time for which the key is valid, e.g. 90d or 12h
    #[arg(long, value_name = "TIME", value_parser = lifetime, required_unless_present = "no_expiry")]
    pub expires: Option<Duration>,
    /// Create a key that is valid until it is revoked
    #[arg(long, conflicts_with = "expires")]
    pub no_expiry: bool,
    /// Group of the service, for policies and quotas (repeatable)
    #[arg(long, value_name = "GROUP", value_parser = name)]
    pub group: Vec<String>,
    /// Capability that the key permits (repeatable) [default: all]
    #[arg(long, value_name = "CAPABILITY")]
    pub capability: Vec<String>,
    /// Transport by which the key may be used: rest, grpc, mcp-http or metrics (repeatable) [default: all but metrics]
    #[arg(long, value_name = "TRANSPORT", value_parser = interface)]
    pub transport: Vec<Interface>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The holder of a key or of a token restricts it without the daemon, for a program that needs less.
The token is valid until its key is revoked, or until it expires.

Example:
  agentd key restrict --expires 10m --capability fs.read.v1 < key")]
pub(crate) struct RestrictKeyArgs {
    /// Time for which the token is valid, e.g. 10m [default: as long as the credential]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub expires: Option<Duration>,
    /// Capability that the token permits (repeatable) [default: those of the credential]
    #[arg(long, value_name = "CAPABILITY")]
    pub capability: Vec<String>,
    /// Transport by which the token may be used: rest, grpc or mcp-http (repeatable) [default: those of the credential]
    #[arg(long, value_name = "TRANSPORT", value_parser = interface)]
    pub transport: Vec<Interface>,
    /// Directory of the daemon's host below which a workspace may be (repeatable) [default: those of the credential]
    #[arg(long, value_name = "DIR")]
    pub workspace: Vec<PathBuf>,
}

/// The longest name of a service or of a group in bytes.
const MAX_NAME: usize = 64;

/// Parses the name of a service or of a group. It has no colon, so it never is the name of a user or group of this host, such as
/// `gid:0`.
fn name(text: &str) -> Result<String, String> {
    let is_good = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
    if !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(is_good) && !text.starts_with('-') {
        return Ok(text.to_owned());
    }
    Err(format!("'{}' is not a name — use up to {MAX_NAME} letters, digits, '.', '_' and '-'", text.escape_default()))
}

/// Parses a time, which may be in days.
fn lifetime(text: &str) -> Result<Duration, String> {
    let Some(days) = text.strip_suffix('d') else {
        return duration::parse(text).map_err(|error| format!("{error}, or days such as 90d"));
    };
    let days = days.parse::<u32>().ok().filter(|days| (1..=MAX_DAYS).contains(days));
    let days = days.ok_or_else(|| format!("'{text}' is not a number of days from 1 to {MAX_DAYS} — use for example 90d"))?;
    Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60))
}

/// The longest time of validity in days: ten years.
const MAX_DAYS: u32 = 3660;

fn interface(text: &str) -> Result<Interface, String> {
    Interface::of_word(text).ok_or_else(|| "not a transport — use rest, grpc, mcp-http or metrics".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_look_like_users_and_groups_of_the_host() {
        assert_eq!(name("ci-1.b_C").as_deref(), Ok("ci-1.b_C"));
        for bad in ["", "gid:0", "a b", "a\n", "é", "-a", &"a".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lifetime_is_in_days_or_a_duration() {
        assert_eq!(lifetime("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(lifetime("90m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "0d", "-1d", "1.5d", "4000d", "d", "x", "1w"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
