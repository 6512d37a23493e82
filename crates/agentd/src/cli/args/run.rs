//! `agentd run`, and the options of sandboxes and commands.

use super::{Reference, limits::LimitArgs, network_arg::NetworkArg};
use agentd_core::{Bytes, NetworkLimits, Profile, duration};
use agentd_egress::preset::Preset;
use agentd_isolation::layouts;
use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use std::{ffi::OsString, path::PathBuf, time::Duration};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ProfileArg {
    /// Only the calls that nearly every program makes; no sockets, except TCP and UDP with granted hosts (--net)
    Strict,
    /// The calls of ordinary programs, including compilers, interpreters and test suites
    Default,
    /// Also ptrace and the other calls of debuggers (not perf)
    Permissive,
}

impl From<ProfileArg> for Profile {
    fn from(arg: ProfileArg) -> Self {
        match arg {
            ProfileArg::Strict => Self::Strict,
            ProfileArg::Default => Self::Default,
            ProfileArg::Permissive => Self::Permissive,
        }
    }
}

impl From<Profile> for ProfileArg {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Strict => Self::Strict,
            Profile::Default => Self::Default,
            Profile::Permissive => Self::Permissive,
        }
    }
}

/// Claims that a caller may require of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RequireArg {
    /// The command runs on a separate guest kernel (firecracker, gondolin)
    KernelIsolation,
}

impl RequireArg {
    /// Returns the name of the value on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KernelIsolation => "kernel-isolation",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd run -- python3 -c 'print(6*7)'
  agentd run --memory 512M --timeout 2m -- make test
  agentd run --workspace none --ro ./data -- sort data/words
  agentd run --net allow=example.com -- curl -sS https://example.com
  agentd run -it -- bash

Exit codes: the command's own; 124 time limit exceeded; 125 agentd failed;
126 not executable; 127 not found; 128+n ended by signal n;
137 also if its remaining processes exceeded a limit.")]
pub(crate) struct RunArgs {
    /// Backend to use. auto: linux-native or container, whichever proves more; it must prove isolation of files, processes,
    /// network and system calls, or the command does not run [env: AGENTD_BACKEND] [default: auto]
    #[arg(long, value_name = "auto|NAME")]
    pub backend: Option<String>,
    /// Claim that the backend must also prove; with `auto`, select only among backends that prove it
    #[arg(long, value_enum, value_name = "WHAT")]
    pub require: Vec<RequireArg>,
    #[command(flatten)]
    pub boundary: BoundaryArgs,
    #[command(flatten)]
    pub command: CommandArgs,
    /// Size of the disk for the files of the sandbox's root. Selects container unless another backend is named. container:
    /// requires root; without this option, these files are in memory. firecracker: 8G without this option. Other backends refuse
    /// the option
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub disk: Option<Bytes>,
    /// Secret for one host: the command gets a placeholder in the variable NAME, and agentd puts the value into requests to HOST
    /// only, over verified TLS only. HOST has the form HOST[:PORT][/HEADER], and needs --net allow=. HEADER is authorization by
    /// default; basic is the password of basic authentication; aws/REGION/SERVICE is a key of AWS (ID:SECRET[:TOKEN]): the
    /// command gets a placeholder key in NAME_ACCESS_KEY_ID and NAME_SECRET_ACCESS_KEY, and agentd signs its requests again.
    /// SOURCE is env:VAR, file:PATH or fd:NUMBER: a variable of agentd, a file, or an open descriptor; aws:env reads the
    /// variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of agentd. The command must not be able to read
    /// it (repeatable)
    #[arg(long, value_name = "NAME@HOST=SOURCE")]
    pub secret: Vec<OsString>,
    /// Preset of a tool (`agentd net presets`): its hosts, as with --net preset=. For an agent CLI also its API key, which is
    /// read from a variable of agentd and used like that of --secret (repeatable)
    #[arg(long, value_name = "NAME", value_parser = Preset::find)]
    pub preset: Vec<Preset>,
    /// Print one JSON object that describes the run and contains its output
    #[arg(long, conflicts_with_all = ["interactive", "tty"])]
    pub json: bool,
    /// Hide the host's package caches, all or the named ones; by default they are visible copy-on-write (--explain lists them)
    #[arg(long, value_name = "NAMES", num_args = 0..=1, require_equals = true, value_delimiter = ',',
        default_missing_value = "all",
        value_parser = PossibleValuesParser::new(layouts::cache_names().into_iter().chain(["all"])))]
    pub no_host_caches: Vec<String>,
    /// Write a signed receipt of the run to FILE and a description of the run to FILE.intent, and record the run in the audit
    /// log (see `agentd receipt verify`)
    #[arg(long, value_name = "FILE", conflicts_with = "explain")]
    pub receipt: Option<PathBuf>,
    /// Print how each isolation control would be applied, and run nothing
    #[arg(long)]
    pub explain: bool,
}

/// The boundary, the visible host paths, and the limits.
#[derive(Debug, Args)]
pub(crate) struct BoundaryArgs {
    /// System calls that are allowed [default: default]
    #[arg(long, value_enum)]
    pub profile: Option<ProfileArg>,
    /// Image to run in (see `agentd image`); its ENV and WORKDIR apply, its USER, ENTRYPOINT and CMD do not
    #[arg(long, value_name = "REF")]
    pub image: Option<Reference>,
    /// Host directory that the command may change, or none [default: the current directory]
    #[arg(long, value_name = "DIR|none")]
    pub workspace: Option<PathBuf>,
    /// Make the workspace read-only
    #[arg(long)]
    pub workspace_ro: bool,
    /// Another host path that the command may read, visible at the same path or at TARGET
    #[arg(long, value_name = "PATH[:TARGET]")]
    pub ro: Vec<PathBuf>,
    /// Another host path that the command may change, visible at the same path or at TARGET
    #[arg(long, value_name = "PATH[:TARGET]")]
    pub rw: Vec<PathBuf>,
    /// Protected path that the command may change: absolute, or relative to the workspace, e.g. .git/config
    #[arg(long, value_name = "PATH")]
    pub unprotect: Vec<PathBuf>,
    /// Follow symbolic links in the paths of grants, even if an earlier command may have created them
    #[arg(long)]
    pub follow_links: bool,
    /// Hide the toolchains on PATH below the home directory, all or the named ones; by default they are visible read-only
    /// (`agentd run --explain` lists them)
    #[arg(long, value_name = "NAMES", num_args = 0..=1, require_equals = true, value_delimiter = ',',
        default_missing_value = "all",
        value_parser = PossibleValuesParser::new(layouts::toolchain_names().into_iter().chain(["all"])))]
    pub no_host_tools: Vec<String>,
    /// Network access. off: loopback only. host: the host's network. allow=HOSTS: only these hosts, separated by commas, each
    /// as NAME[:PORT][/PROTOCOL][/METHOD:PATH], *.NAME or ADDRESS:PORT; NAME alone means TLS at port 443; PROTOCOL is tcp, tls,
    /// http or udp; METHOD:PATH, as in GET:/v1/*, lets `agentd run` inspect the TLS of this host and refuse other requests.
    /// approve=HOSTS: the same, but the first connection to each destination waits for `agentd approve` (see `agentd approvals`).
    /// preset=NAMES: the hosts of presets (see `agentd net presets`). file=PATH: the hosts in a file of network grants. log: no
    /// host; prints what the command would need. All values except off and host can be repeated [default: off]
    #[arg(long, value_name = "off|host|log|allow=|approve=|preset=|file=")]
    pub net: Vec<NetworkArg>,
    /// Limits of the network with granted hosts, separated by commas: connections=NUMBER at once; new-connections=NUMBER/s;
    /// bytes=SIZE in total; rate=SIZE/s; queries=NUMBER/s of DNS. Sizes count both directions together. More connections, and
    /// bytes above the total, are refused; what exceeds a rate is delayed. Of several limits of a kind, also those of --net
    /// file=, the smallest applies (repeatable)
    #[arg(long, value_name = "LIMITS")]
    pub net_limit: Vec<NetworkLimits>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// CPU weight under contention; the default of a cgroup is 100
    #[arg(long, value_name = "1-10000", allow_hyphen_values = true, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub cpu_weight: Option<u32>,
    /// Run even if an isolation control cannot be applied, and print a warning for each; `auto` then selects linux-native without
    /// testing it, unless another option needs another backend
    #[arg(long)]
    pub allow_degraded: bool,
}

/// A command and its options.
#[derive(Debug, Args)]
pub(crate) struct CommandArgs {
    /// Wall-clock time limit, e.g. 500ms, 30s, 2m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Time between the stop signal and SIGKILL, when the time limit is exceeded or agentd itself is stopped; 0 kills at once
    #[arg(long, value_name = "TIME", default_value = "2s", allow_hyphen_values = true, value_parser = duration::parse_or_zero)]
    pub grace: Duration,
    /// Maximum size of the output; a command that writes more is killed
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub max_output: Option<Bytes>,
    /// Set an environment variable to a value, or to the caller's value; the command inherits no other variables
    #[arg(long, value_name = "K[=V]")]
    pub env: Vec<String>,
    /// Working directory, as a path on the host or in the sandbox. Default, the first of these: the current directory if it is
    /// granted; the workspace; the current directory if it contains a granted path; the image's working directory; the home
    /// directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Forward standard input to the command
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Run the command on a terminal of the sandbox. With -i, agentd's standard input must be a terminal; without -i, the command
    /// reads nothing
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    pub argv: Vec<OsString>,
}
