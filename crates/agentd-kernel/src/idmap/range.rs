//! Ranges of host ids in `/etc/subuid` and `/etc/subgid` (`subuid(5)`, `subgid(5)`). Each line has the form `NAME:FIRST:COUNT`.

use super::{IdMap, RANGE};
use agentd_core::{Control, ControlError};
use std::{fs, io};

/// The name in `/etc/subuid` and `/etc/subgid` whose lines assign host ids to the sandboxes of root.
const NAME: &str = "agentd";

/// The files that assign user ids and group ids, in this order.
pub(super) const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// A range of consecutive host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// Returns the longest range that `content` assigns to one of `names`. Ignores empty ranges and ranges beyond 32 bits.
pub(super) fn longest(content: &str, names: &[String]) -> Option<Range> {
    let ranges = content.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        let whole = count > 0 && u32::checked_add(first, count).is_some();
        (whole && names.iter().any(|known| known == name)).then_some(Range { first, count })
    });
    ranges.max_by_key(|range| range.count)
}

/// Reads a file that root maintains. A missing file is treated as empty. Any other error is returned, because an unreadable file
/// may assign ids.
fn read(file: &str) -> Result<String, ControlError> {
    match fs::read(file) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(ControlError::caused_by(Control::Idmap, format!("read {file}"), error)),
    }
}

/// The host ids for the sandboxes of root. Each sandbox gets one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostIds {
    uids: Range,
    gids: Range,
}

impl HostIds {
    /// Returns the ids that the two files assign to `agentd`, or `usual` for both kinds if neither file has a line of that name.
    ///
    /// # Errors
    /// If a file cannot be read, or a line for `agentd` exists and no usable range does. In that case, ids outside the configured
    /// ranges must not be used.
    pub(super) fn configured(usual: Range) -> Result<Self, ControlError> {
        let [uids, gids] = FILES.map(read);
        Self::parse(&uids?, &gids?, usual)
    }

    fn parse(uids: &str, gids: &str, usual: Range) -> Result<Self, ControlError> {
        let has_line = |content: &str| content.lines().any(|line| line.trim().split(':').next() == Some(NAME));
        if !has_line(uids) && !has_line(gids) {
            return Ok(Self { uids: usual, gids: usual });
        }
        let given = |content, file| {
            longest(content, &[NAME.to_owned()]).filter(|range| range.first > 0 && range.count >= RANGE).ok_or_else(|| {
                ControlError::new(Control::Idmap, format!("read the ids of {NAME} in {file}"), Some(libc::EINVAL)).remedy(format!(
                    "assign at least {RANGE} ids with a line {NAME}:FIRST:COUNT, or remove the lines of {NAME} from {} and {}",
                    FILES[0], FILES[1]
                ))
            })
        };
        Ok(Self { uids: given(uids, FILES[0])?, gids: given(gids, FILES[1])? })
    }

    /// Returns the number of sandboxes that the ids suffice for.
    pub(super) fn parts(&self) -> u32 {
        self.uids.count.min(self.gids.count) / RANGE
    }

    /// Returns part `number`, whose first id is root in the sandbox. Different numbers below [`HostIds::parts`] have different
    /// ids.
    pub(super) fn part(&self, number: u32) -> IdMap {
        let first = |range: Range| range.first + number * RANGE;
        IdMap { uid: 0, gid: 0, host_uid: first(self.uids), host_gid: first(self.gids), count: RANGE, extra: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Range = Range { first: 0x7040_0000, count: 3 * RANGE };

    #[test]
    fn host_ids_are_configured_or_default() {
        let usual = HostIds { uids: USUAL, gids: USUAL };
        assert_eq!(HostIds::parse("", "ann:1:65536\nagentd2:1:65536\n", USUAL).unwrap(), usual);
        let uids = "ann:100000:65536\nagentd:200000:131073\nagentd:1:65536\n";
        let given = HostIds::parse(uids, "agentd:700000:655360\n", USUAL).unwrap();
        assert_eq!(given.parts(), 2);
        let ids = |number| (given.part(number).host_uid, given.part(number).host_gid, given.part(number).count);
        assert_eq!([ids(0), ids(1)], [(200_000, 700_000, 65536), (265_536, 765_536, 65536)]);
    }

    #[test]
    fn unusable_configured_range_is_an_error() {
        let good = "agentd:200000:65536\n";
        for bad in ["", "agentd:200000:65535\n", "agentd:4294901761:65536\n", "agentd:0:65536\n", "agentd:x:65536\n", "agentd\n"]
        {
            for (uids, gids, file) in [(bad, good, "/etc/subuid"), (good, bad, "/etc/subgid")] {
                let error = HostIds::parse(uids, gids, USUAL).unwrap_err().to_string();
                assert!(error.contains(file) && error.contains("65536"), "{bad}: {error}");
            }
        }
    }
}
