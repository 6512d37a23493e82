//! A server of Git repositories by the smart protocol: `git http-backend` (`man 1 git-http-backend`).

use crate::outer::{respond, target};
use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

/// The header that holds the length of a body.
const LENGTH: &str = "content-length";

/// Answers a request for `/git/NAME/…`, where NAME is a repository in `files`.
pub fn serve(mut stream: impl Read + Write, head: &str, files: &Path) {
    let header = |name: &str| {
        let of =
            |line: &str| line.split_once(": ").filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned());
        head.lines().find_map(of)
    };
    let length: u64 = header(LENGTH).map_or(0, |length| length.parse().unwrap());
    let mut body = Vec::new();
    Read::by_ref(&mut stream).take(length).read_to_end(&mut body).unwrap();
    let (path, query) = target(head).split_once('?').unwrap_or((target(head), ""));
    let mut backend = Command::new("git");
    backend.arg("http-backend").env_clear().env("PATH", "/usr/bin:/bin").env("GIT_HTTP_EXPORT_ALL", "1");
    backend.env("GIT_PROJECT_ROOT", files).env("GIT_CONFIG_COUNT", "1");
    backend.env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    backend.env("PATH_INFO", path.strip_prefix("/git").unwrap()).env("QUERY_STRING", query);
    backend.env("REQUEST_METHOD", head.split(' ').next().unwrap()).env("CONTENT_LENGTH", length.to_string());
    for (variable, name) in
        [("CONTENT_TYPE", "content-type"), ("HTTP_CONTENT_ENCODING", "content-encoding"), ("GIT_PROTOCOL", "git-protocol")]
    {
        backend.envs(header(name).map(|value| (variable, value)));
    }
    let mut running = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(&body).unwrap();
    let output = running.wait_with_output().unwrap().stdout;
    let end = output.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let lines = String::from_utf8_lossy(&output[..end]);
    let status = lines.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let others: String = lines.lines().filter(|line| !line.starts_with("Status: ")).flat_map(|line| [line, "\r\n"]).collect();
    respond(stream, status, &others, &output[end + 4..]);
}
