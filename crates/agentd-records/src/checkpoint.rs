//! Checkpoints (<https://c2sp.org/tlog-checkpoint>): the origin, size and root of a log, signed by the log.

use crate::merkle::Hash;
use std::{fmt, str::FromStr};

/// The signed state of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The unique name of the log.
    pub origin: String,
    /// The number of leaves.
    pub size: u64,
    /// The root of the tree of these leaves.
    pub root: Hash,
}

/// The text is not a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a checkpoint: expected three lines with origin, size and root")]
pub struct InvalidCheckpoint;

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)
    }
}

/// Parses the one text form of a checkpoint. Extension lines are refused, because agentd's logs have none.
impl FromStr for Checkpoint {
    type Err = InvalidCheckpoint;

    fn from_str(text: &str) -> Result<Self, InvalidCheckpoint> {
        let lines: Vec<_> = text.split('\n').collect();
        let [origin, size, root, ""] = lines[..] else { return Err(InvalidCheckpoint) };
        let parsed = Self {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| InvalidCheckpoint)?,
            root: Hash::parse(root).ok_or(InvalidCheckpoint)?,
        };
        if !origin.is_empty() && parsed.to_string() == text { Ok(parsed) } else { Err(InvalidCheckpoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_has_one_text_form() {
        let good = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        assert_eq!(good.parse::<Checkpoint>().unwrap().to_string(), good);
        for bad in [
            good.trim_end().to_owned(),
            format!("{good}extension\n"),
            good.replace("208", "0208"),
            good.replace("208", "+208"),
            good.replace("q2I=", "q2J="),
            good.replace("example.com/behind-the-sofa", ""),
            good.replace("20852163", "18446744073709551616"),
            String::new(),
        ] {
            assert_eq!(bad.parse::<Checkpoint>(), Err(InvalidCheckpoint), "{bad:?}");
        }
    }
}
