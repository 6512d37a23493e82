//! `agentd sandbox`.

use super::run::{BoundaryArgs, CommandArgs};
use agentd_core::{Bytes, duration};
use agentd_egress::NetGrants;
use agentd_sandboxes::Name;
use clap::{Args, Subcommand};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Create a sandbox from an image, or from the host's programs
    Create(Box<CreateArgs>),
    /// Run a command in a sandbox
    Exec(Box<ExecArgs>),
    /// List the sandboxes
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print all details of a sandbox as JSON
    Inspect {
        /// The name of the sandbox
        name: Name,
    },
    /// Print the output of a sandbox's detached commands
    Logs {
        /// The name of the sandbox
        name: Name,
        /// Print new output until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Copy a file into or out of a sandbox
    #[command(
        after_help = "One of FROM and TO is NAME:PATH, with an absolute path in the sandbox; `-` is standard input or output."
    )]
    Cp {
        /// The file to copy
        from: String,
        /// The destination
        to: String,
    },
    /// Pause all processes of a sandbox
    Pause {
        /// The name of the sandbox
        name: Name,
    },
    /// Resume the processes of a paused sandbox
    Resume {
        /// The name of the sandbox
        name: Name,
    },
    /// Save the files of a sandbox as a named snapshot
    Snapshot {
        /// The name of the sandbox
        name: Name,
        /// The name of the snapshot
        snapshot: Name,
        /// Delete the snapshot instead of saving one
        #[arg(long)]
        delete: bool,
    },
    /// Create new sandboxes with the same files
    Fork {
        /// The name of the sandbox
        name: Name,
        /// Start from this snapshot instead of the current state
        #[arg(long, value_name = "SNAPSHOT")]
        of: Option<Name>,
        /// The names of the new sandboxes
        #[arg(required = true)]
        new: Vec<Name>,
    },
    /// Resolve the paths of a sandbox's grants again, after a file or directory of the host was replaced
    Regrant {
        /// The name of the sandbox
        name: Name,
        /// Follow symbolic links, even if a command may have created them
        #[arg(long)]
        follow_links: bool,
        /// Print the changes of grants and of protected paths as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print or change the hosts that a sandbox may reach; a change applies at once, even to running commands
    Net(NetworkChangeArgs),
    /// Publish a port of a sandbox's loopback on this host's loopback or on a Unix socket, until interrupted
    Forward {
        /// The name of the sandbox
        name: Name,
        /// The port in the sandbox, and where to listen: ADDRESS:PORT of the loopback, or the path of a Unix socket
        /// [default: 127.0.0.1 with the same port]
        #[arg(value_name = "PORT[:LOCAL]")]
        port: ForwardedPort,
    },
    /// Restore a snapshot; running commands are killed
    Restore {
        /// The name of the sandbox
        name: Name,
        /// The name of the snapshot
        snapshot: Name,
    },
    /// List the changed files of a sandbox: A added, C changed, D removed
    Diff {
        /// The name of the sandbox
        name: Name,
        /// Compare with this snapshot instead of the state at creation
        #[arg(long, value_name = "SNAPSHOT")]
        since: Option<Name>,
    },
    /// Kill the commands of sandboxes, and remove the sandboxes
    Rm {
        /// The names of the sandboxes
        #[arg(required = true)]
        names: Vec<Name>,
        /// Print the last changes of protected paths as JSON, one object for each removed sandbox
        #[arg(long)]
        json: bool,
    },
    /// Check the stored sandboxes for damage
    Fsck,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd sandbox create dev --image debian:12 --memory 2G --disk 10G
  agentd sandbox exec -it dev -- bash
  agentd sandbox snapshot dev clean
  agentd sandbox fork dev try-1 try-2 try-3")]
#[command(mut_arg("workspace", |arg| arg.help("Host directory that commands may change [default: none]")))]
pub(crate) struct CreateArgs {
    /// The name of the sandbox: lower-case letters, digits, '.', '_' and '-'
    pub name: Name,
    #[command(flatten)]
    pub boundary: BoundaryArgs,
    /// Disk size for the files of the sandbox and its snapshots; each fork gets a disk of the same size (requires root)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub disk: Option<Bytes>,
    /// Remove the sandbox when it has not been used for this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub idle_ttl: Option<Duration>,
    /// Remove the sandbox this time after its creation
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub ttl: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(mut_arg("cwd", |arg| arg.help("Working directory in the sandbox [default: that of the image, or the home directory]")))]
pub(crate) struct ExecArgs {
    /// The name of the sandbox
    pub name: Name,
    /// Return at once and leave the command running; the output of the command goes to the sandbox's log
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    #[command(flatten)]
    pub command: CommandArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkChangeArgs {
    /// The name of the sandbox
    pub name: Name,
    /// Network grants to add, separated by commas: HOST[:PORT][/PROTOCOL][/approve] (repeatable)
    #[arg(long, value_name = "GRANTS")]
    pub allow: Vec<NetGrants>,
    /// Network grants to remove, as `agentd sandbox net NAME` prints them; their connections end (repeatable)
    #[arg(long, value_name = "GRANTS")]
    pub revoke: Vec<NetGrants>,
    /// Print the network grants as JSON
    #[arg(long)]
    pub json: bool,
}

/// A port of a sandbox, and where to publish it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardedPort {
    /// The port of the sandbox's loopback.
    pub port: u16,
    /// Where to listen on this host.
    pub local: LocalEnd,
}

/// The place on this host at which a forwarded port is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LocalEnd {
    /// A loopback address. With port 0, the kernel chooses the port.
    Loopback(SocketAddr),
    /// The path of a Unix socket.
    Socket(PathBuf),
}

impl FromStr for ForwardedPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, local) = text.split_once(':').map_or((text, None), |(port, local)| (port, Some(local)));
        // `u16::from_str` also accepts a sign.
        let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit())).and_then(|port| port.parse().ok());
        let port = port.filter(|port| *port != 0).ok_or("expected a port from 1 to 65535, as in 8080 or 8080:127.0.0.1:8080")?;
        let local = match local {
            None => LocalEnd::Loopback((Ipv4Addr::LOCALHOST, port).into()),
            Some(path) if path.contains('/') => LocalEnd::Socket(path.into()),
            Some(address) => {
                let address: SocketAddr = address
                    .parse()
                    .map_err(|_| "expected ADDRESS:PORT or a path with a slash, as in 8080:127.0.0.1:8080 or 8080:./socket")?;
                if !address.ip().is_loopback() {
                    return Err(format!("{} is not a loopback address — use 127.0.0.1 or [::1]", address.ip()));
                }
                LocalEnd::Loopback(address)
            }
        };
        Ok(Self { port, local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_forwarded_only_to_loopback_or_a_path() {
        let loopback = |address: &str| Ok(LocalEnd::Loopback(address.parse().unwrap()));
        for (text, expected) in [
            ("8080", loopback("127.0.0.1:8080")),
            ("8080:127.0.0.1:9090", loopback("127.0.0.1:9090")),
            ("8080:127.1.2.3:0", loopback("127.1.2.3:0")),
            ("8080:[::1]:9090", loopback("[::1]:9090")),
            ("8080:./a:b", Ok(LocalEnd::Socket("./a:b".into()))),
            ("8080:0.0.0.0:8080", Err("0.0.0.0 is not a loopback address")),
            ("8080:[::]:8080", Err(":: is not a loopback address")),
            ("8080:192.168.1.1:8080", Err("192.168.1.1 is not a loopback address")),
            ("8080:9090", Err("ADDRESS:PORT")),
            ("8080:localhost:1", Err("ADDRESS:PORT")),
            ("0", Err("from 1 to 65535")),
            ("+1", Err("from 1 to 65535")),
            ("", Err("from 1 to 65535")),
        ] {
            match (text.parse::<ForwardedPort>(), expected) {
                (Ok(parsed), Ok(local)) => assert_eq!(parsed, ForwardedPort { port: 8080, local }),
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }
}
