//! Names of volumes. The name of a volume is a random number, like that of a layer.

use crate::layer_id::{LayerId, NotALayerId};
use std::{fmt, io, path::Path, str::FromStr};

/// The name of a volume: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VolumeId(LayerId);

impl VolumeId {
    /// Chooses a random 64-bit name. A collision with another volume is negligible.
    pub(crate) fn random() -> io::Result<Self> {
        LayerId::random().map(Self)
    }

    /// Parses the last component of `path` as the name of a volume.
    pub(crate) fn from_path(path: &Path) -> Option<Self> {
        LayerId::from_path(path).map(Self)
    }
}

impl FromStr for VolumeId {
    type Err = NotALayerId;

    fn from_str(text: &str) -> Result<Self, NotALayerId> {
        text.parse().map(Self)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
