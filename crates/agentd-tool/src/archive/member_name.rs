//! Checks the names of an archive's entries, and the targets of its links.

/// The maximum number of components of a name.
const MAX_DEPTH: usize = 128;

/// Returns the components of a name that leads to a place below the new directory. No components stand for this directory itself.
///
/// # Errors
/// The reason to refuse the name.
pub(super) fn components(name: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    match name {
        [] => return Err("empty name"),
        [b'/', ..] => return Err("absolute name"),
        _ if name.contains(&0) => return Err("name with a NUL byte"),
        _ if name.len() > 4095 => return Err("name longer than 4095 bytes"),
        _ => {}
    }
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    match parts {
        _ if parts.contains(&&b".."[..]) => Err("name with `..`"),
        _ if parts.iter().any(|part| part.len() > 255) => Err("component longer than 255 bytes"),
        _ if parts.len() > MAX_DEPTH => Err("name with more than 128 components"),
        parts => Ok(parts),
    }
}

/// Checks the target of a symbolic link in a directory `depth` levels below the new one. A target is relative, and `..` stands
/// only at its beginning, at most `depth` times. By induction, a path of such links stays below the new directory: behind a
/// link, `..` would lead elsewhere.
///
/// # Errors
/// The reason to refuse the link.
pub(super) fn check_target(target: &[u8], depth: usize) -> Result<(), &'static str> {
    match target {
        [] => return Err("link without a target"),
        [b'/', ..] => return Err("link with an absolute target"),
        _ if target.contains(&0) => return Err("link whose target has a NUL byte"),
        _ if target.len() > 4095 => return Err("link whose target is longer than 4095 bytes"),
        _ => {}
    }
    let mut parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut ups = 0;
    let mut next = parts.next();
    while next == Some(&b".."[..]) {
        ups += 1;
        next = parts.next();
    }
    if ups > depth || parts.any(|part| part == b"..") { Err("link that may lead out of the directory") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_out_of_the_directory_is_refused() {
        for name in ["", "/", "/etc/passwd", "..", "a/..", "../a", "a/../b", "a\0b"] {
            assert!(components(name.as_bytes()).is_err(), "{name:?}");
        }
        assert!(
            components(&b"a/".repeat(129)).is_err() && components(&[b'a'; 256]).is_err() && components(&[b'a'; 5000]).is_err()
        );
        for (name, parts) in
            [("a", vec!["a"]), ("./a//b/", vec!["a", "b"]), (".", vec![]), ("...", vec!["..."]), ("--help", vec!["--help"])]
        {
            let expected: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
            assert_eq!(components(name.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn link_out_of_the_directory_is_refused() {
        for (target, depth) in [("", 1), ("/a", 1), ("..", 0), ("../../a", 1), ("a/..", 3), ("../a/../../b", 2), ("./..", 0)] {
            assert!(check_target(target.as_bytes(), depth).is_err(), "{target}");
        }
        for (target, depth) in [("a", 0), ("..", 1), ("../a", 1), (".././../a/b", 2), ("a/b", 0)] {
            assert!(check_target(target.as_bytes(), depth).is_ok(), "{target}");
        }
    }
}
