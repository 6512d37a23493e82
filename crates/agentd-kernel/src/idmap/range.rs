//! Host ids that follow each other, as `/etc/subuid` and `/etc/subgid` give them (`subuid(5)`, `subgid(5)`): each line a name, the first id
//! and how many.

use super::{Identity, RANGE};
use agentd_core::{Layer, LayerError};
use std::{fs, io};

/// Whose lines say which host ids root's sandboxes get.
const NAME: &str = "agentd";

/// Where user ids are given, and where group ids are.
pub(super) const FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// Host ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// The longest range that `content` gives to one of `names`.
pub(super) fn longest(content: &str, names: &[String]) -> Option<Range> {
    let ranges = content.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        let whole = count > 0 && u32::checked_add(first, count).is_some();
        (whole && names.iter().any(|known| known == name)).then_some(Range { first, count })
    });
    ranges.max_by_key(|range| range.count)
}

/// What a file of root's says. One that is not there gives nothing; one that cannot be read may give anything.
fn read(file: &str) -> Result<String, LayerError> {
    match fs::read(file) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(LayerError::new(Layer::Idmap, format!("read {file}"), error.raw_os_error())),
    }
}

/// The host ids of root's sandboxes, each of which gets a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostIds {
    uids: Range,
    gids: Range,
}

impl HostIds {
    /// Those that are given to `agentd`; without a line of that name, `usual` for both.
    ///
    /// # Errors
    /// What is wrong with the lines that there are: other ids than those somebody has set apart are nobody's to take.
    pub(super) fn configured(usual: Range) -> Result<Self, LayerError> {
        let [uids, gids] = FILES.map(read);
        Self::of(&uids?, &gids?, usual)
    }

    fn of(uids: &str, gids: &str, usual: Range) -> Result<Self, LayerError> {
        let has_line = |content: &str| content.lines().any(|line| line.trim().split(':').next() == Some(NAME));
        if !has_line(uids) && !has_line(gids) {
            return Ok(Self { uids: usual, gids: usual });
        }
        let given = |content, file| {
            longest(content, &[NAME.to_owned()]).filter(|range| range.first > 0 && range.count >= RANGE).ok_or_else(|| {
                LayerError::new(Layer::Idmap, format!("read what {file} gives to {NAME}"), Some(libc::EINVAL)).remedy(format!(
                    "give {NAME} at least {RANGE} ids there, as {NAME}:FIRST:COUNT, or take its line out of both {} and {}",
                    FILES[0], FILES[1]
                ))
            })
        };
        Ok(Self { uids: given(uids, FILES[0])?, gids: given(gids, FILES[1])? })
    }

    /// How many sandboxes there are ids for.
    pub(super) fn parts(&self) -> u32 {
        self.uids.count.min(self.gids.count) / RANGE
    }

    /// Root inside, and the ids that follow: a part that no other number below [`HostIds::parts`] has.
    pub(super) fn part(&self, number: u32) -> Identity {
        let first = |range: Range| range.first + number * RANGE;
        Identity { uid: 0, gid: 0, host_uid: first(self.uids), host_gid: first(self.gids), count: RANGE, rest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Range = Range { first: 0x7040_0000, count: 3 * RANGE };

    #[test]
    fn roots_sandboxes_have_the_usual_ids_or_those_that_are_given() {
        let usual = HostIds { uids: USUAL, gids: USUAL };
        assert_eq!(HostIds::of("", "ann:1:65536\nagentd2:1:65536\n", USUAL).unwrap(), usual);
        let uids = "ann:100000:65536\nagentd:200000:131073\nagentd:1:65536\n";
        let given = HostIds::of(uids, "agentd:700000:655360\n", USUAL).unwrap();
        assert_eq!(given.parts(), 2);
        let ids = |number| (given.part(number).host_uid, given.part(number).host_gid, given.part(number).count);
        assert_eq!([ids(0), ids(1)], [(200_000, 700_000, 65536), (265_536, 765_536, 65536)]);
    }

    #[test]
    fn what_is_given_and_cannot_be_used_is_an_error() {
        let good = "agentd:200000:65536\n";
        for bad in ["", "agentd:200000:65535\n", "agentd:4294901761:65536\n", "agentd:0:65536\n", "agentd:x:65536\n", "agentd\n"]
        {
            for (uids, gids, file) in [(bad, good, "/etc/subuid"), (good, bad, "/etc/subgid")] {
                let error = HostIds::of(uids, gids, USUAL).unwrap_err().to_string();
                assert!(error.contains(file) && error.contains("65536"), "{bad}: {error}");
            }
        }
    }
}
