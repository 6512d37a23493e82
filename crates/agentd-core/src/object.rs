//! The identity of a file or directory of the host. A grant is checked against this identity each time its path is opened.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The identity of one file system object. It differs from that of every other object, even one that later reuses the path or the
/// inode number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectId {
    /// Type and bytes of the object's file handle, in hexadecimal digits (`name_to_handle_at(2)`). Absent if its file system has
    /// no handles.
    pub handle: Option<String>,
    /// The object's file system, as `statfs(2)` identifies it (`f_fsid`). Zero if the file system has no such id.
    pub filesystem: u64,
    /// Major and minor number of the device of the object's file system. They may change with a reboot.
    pub device: (u32, u32),
    /// The object's inode number.
    pub inode: u64,
    /// The object's creation time, in seconds since 1970 and nanoseconds (`statx(2)`). Absent if its file system does not record
    /// it.
    pub born: Option<(i64, u32)>,
}

impl ObjectId {
    /// Returns whether both identities name the same object. If both have a handle, the handles decide: a file system reuses
    /// inode numbers for new files, and the kernel reuses device numbers for other file systems.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_device = self.device == other.device;
        match (&self.handle, &other.handle) {
            (Some(one), Some(two)) => one == two && self.filesystem == other.filesystem && (self.filesystem != 0 || same_device),
            _ => same_device && self.inode == other.inode && self.born == other.born,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode {} of device {}:{}", self.inode, self.device.0, self.device.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(handle: Option<&str>) -> ObjectId {
        ObjectId { handle: handle.map(str::to_owned), filesystem: 7, device: (8, 1), inode: 42, born: Some((1, 2)) }
    }

    #[test]
    fn object_with_reused_inode_number_differs() {
        let one = object(Some("1:00"));
        assert!(one.is_same(&one.clone()));
        assert!(!one.is_same(&object(Some("1:01"))));
        let later = ObjectId { born: Some((1, 3)), ..object(None) };
        assert!(!object(None).is_same(&later));
    }

    #[test]
    fn object_after_reboot_is_identified_by_handle_only() {
        let moved = |handle| ObjectId { device: (8, 17), ..object(handle) };
        assert!(object(Some("1:00")).is_same(&moved(Some("1:00"))));
        assert!(!object(None).is_same(&moved(None)));
        let unnamed = |device| ObjectId { filesystem: 0, device, ..object(Some("1:00")) };
        assert!(!unnamed((0, 5)).is_same(&unnamed((0, 6))));
    }
}
