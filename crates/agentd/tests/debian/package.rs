//! Creates packages for `dpkg` (`deb(5)`). Owners and device nodes in an archive need no privilege.

use std::io;
use tar::{Builder, EntryType, Header};

/// An entry of a package.
pub struct PackageFile<'a> {
    pub name: &'static str,
    pub mode: u32,
    pub owner: (u64, u64),
    pub what: PackageContent<'a>,
}

pub enum PackageContent<'a> {
    Directory,
    File(&'a str),
    HardLink(&'static str),
    /// A device node with the numbers of `/dev/null`.
    Device,
}

impl<'a> PackageFile<'a> {
    /// Creates an entry that belongs to root.
    pub fn new(name: &'static str, mode: u32, what: PackageContent<'a>) -> Self {
        Self { name, mode, owner: (0, 0), what }
    }

    fn append(&self, archive: &mut Builder<Vec<u8>>) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        let content = if let PackageContent::File(content) = self.what { content.as_bytes() } else { &[] };
        header.set_size(content.len() as u64);
        header.set_entry_type(match self.what {
            PackageContent::Directory => EntryType::Directory,
            PackageContent::File(_) => EntryType::Regular,
            PackageContent::HardLink(_) => EntryType::Link,
            PackageContent::Device => EntryType::Char,
        });
        if let PackageContent::HardLink(target) = self.what {
            return archive.append_link(&mut header, self.name, target);
        }
        if let PackageContent::Device = self.what {
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
        archive.append_data(&mut header, self.name, content)
    }
}

fn archive(entries: &[PackageFile<'_>]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    entries.iter().try_for_each(|entry| entry.append(&mut archive))?;
    archive.into_inner()
}

/// Creates a package with this name, which prints "configured" when it is configured.
pub fn package(name: &str, entries: &[PackageFile<'_>]) -> io::Result<Vec<u8>> {
    let about =
        format!("Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: a test's\n");
    let control = archive(&[
        PackageFile::new("control", 0o644, PackageContent::File(&about)),
        PackageFile::new("postinst", 0o755, PackageContent::File("#!/bin/sh\necho configured\n")),
    ])?;
    let mut package = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", b"2.0\n".to_vec()), ("control.tar", control), ("data.tar", archive(entries)?)] {
        // Name, time, owner, group, mode, size (`ar(5)`). All sizes are even, so no padding is needed.
        package.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).into_bytes());
        package.extend(content);
    }
    Ok(package)
}
