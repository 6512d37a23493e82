//! What a volume is called: as a layer is, by lot.

use crate::layer_id::{LayerId, NotALayerId};
use std::{fmt, io, path::Path, str::FromStr};

/// The name of a volume: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VolumeId(LayerId);

impl VolumeId {
    /// A name that no volume has.
    pub(crate) fn draw() -> io::Result<Self> {
        LayerId::draw().map(Self)
    }

    /// The volume whose directory this is, if it is one.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        LayerId::of(path).map(Self)
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
