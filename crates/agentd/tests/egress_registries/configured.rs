//! The registries that this machine is configured to use, and the network grants that they need.

use agentd_egress::{NetGrants, grant::Transport, preset::Preset};
use std::{
    collections::BTreeSet,
    net::{IpAddr, ToSocketAddrs as _},
    path::PathBuf,
    process::Command,
};

/// A registry that this machine reaches.
#[derive(Debug)]
pub struct Registry {
    /// The URL, or for apt the file of sources.
    pub url: String,
    /// The network grants of its hosts.
    pub grants: Vec<String>,
}

/// Packages without dependencies.
pub const PIP_PACKAGE: &str = "six";
pub const NPM_PACKAGE: &str = "is-number";
pub const CRATE: &str = "cfg-if";

/// Returns what a program of this machine prints; `None` if it fails.
fn printed(argv: &[&str]) -> Option<String> {
    let output = Command::new(argv[0]).args(&argv[1..]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Returns the content at a URL; `None` if this machine does not reach it.
fn fetched(url: &str) -> Option<String> {
    printed(&["curl", "-sSfL", "--max-time", "20", url])
}

/// Returns true if this machine reaches a URL.
fn is_reached(url: &str) -> bool {
    printed(&["curl", "-sSfL", "--max-time", "20", "-o", "/dev/null", "-w", "reached", url]).is_some()
}

/// Returns the scheme, host and port of a URL.
fn parts(url: &str) -> Option<(&str, String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?.rsplit('@').next()?;
    let usual = if scheme == "http" { 80 } else { 443 };
    match authority.rsplit_once(':') {
        Some((host, port)) => Some((scheme, host.to_owned(), port.parse().ok()?)),
        None => Some((scheme, authority.to_owned(), usual)),
    }
}

/// Returns the network grants for the hosts of URLs. A host whose address is special, such as one in this machine's network,
/// needs a network grant of the address too.
fn grants<'a>(urls: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let (mut all, special) = (BTreeSet::new(), NetGrants::default());
    for (scheme, host, port) in urls.into_iter().filter_map(parts) {
        let protocol = if scheme == "http" { "http" } else { "tls" };
        if host.parse::<IpAddr>().is_err() {
            all.insert(format!("{host}:{port}/{protocol}"));
        }
        for address in (host.as_str(), port).to_socket_addrs().into_iter().flatten() {
            if special.check_address(Transport::Tcp, address.ip(), port).is_err() {
                all.insert(address.to_string());
            }
        }
    }
    all.into_iter().collect()
}

/// Returns every URL in a text.
fn urls(text: &str) -> Vec<&str> {
    let starts = text.match_indices("http").map(|(at, _)| &text[at..]).filter(|rest| rest.split_once("://").is_some());
    starts
        .map(|rest| rest.split(['"', '\'', '<', '>', ' ', '\n']).next().unwrap_or(rest))
        .filter(|url| url.contains("://"))
        .collect()
}

/// The index of pip's configuration, or the one that pip itself has.
pub fn pip() -> Option<Registry> {
    let python = "/usr/bin/python3";
    let own = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";
    let url = std::env::var("PIP_INDEX_URL")
        .ok()
        .or_else(|| printed(&["python3", "-m", "pip", "config", "get", "global.index-url"]))
        .or_else(|| printed(&[python, "-c", own]))?;
    let page = fetched(&format!("{}/{PIP_PACKAGE}/", url.trim_end_matches('/')))?;
    let grants = grants(urls(&page).into_iter().filter(|link| link.contains(".whl")).chain([url.as_str()]));
    Some(Registry { url, grants })
}

/// The registry of npm's configuration.
pub fn npm() -> Option<Registry> {
    let url = printed(&["npm", "config", "get", "registry"])?;
    let tarball = printed(&["npm", "view", NPM_PACKAGE, "dist.tarball"])?;
    let grants = grants([url.as_str(), tarball.as_str()]);
    Some(Registry { url, grants })
}

/// The sparse registry that replaces crates.io in cargo's configuration. Without one, the registry that the preset of agentd
/// names.
pub fn cargo() -> Option<Registry> {
    let folder = std::env::var_os("CARGO_HOME")
        .map_or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")), |folder| Some(folder.into()))?;
    let text = ["config.toml", "config"].iter().find_map(|name| std::fs::read_to_string(folder.join(name)).ok());
    let replaced = text.as_deref().and_then(|text| {
        let line = text.lines().find(|line| line.trim_start().starts_with("registry") && line.contains("sparse+"))?;
        Some(line.split('"').nth(1)?.trim_start_matches("sparse+").to_owned())
    });
    let url = replaced.or_else(|| {
        let preset = Preset::find("rust").ok()?;
        let index = preset.allow.iter().map(ToString::to_string).find(|grant| grant.starts_with("index."))?;
        Some(format!("https://{}/", index.split(':').next()?))
    })?;
    let config = fetched(&format!("{}/config.json", url.trim_end_matches('/')))?;
    let grants = grants(urls(&config).into_iter().chain([url.as_str()]));
    Some(Registry { url, grants })
}

/// A file of apt's sources whose repositories this machine reaches.
pub fn apt() -> Option<Registry> {
    let folder = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.path()).chain([PathBuf::from("/etc/apt/sources.list")]).collect();
    files.sort();
    files.into_iter().find_map(|file| {
        let text = std::fs::read_to_string(&file).ok()?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let sources = lines.join("\n");
        let sites: BTreeSet<&str> = urls(&sources).into_iter().collect();
        let reached = !sites.is_empty() && sites.iter().all(|site| is_reached(&format!("{site}/")));
        reached.then(|| Registry { url: file.display().to_string(), grants: grants(sites) })
    })
}
