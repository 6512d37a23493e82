//! Packages for `dpkg`, made by hand: an owner and a device node need no privilege in an archive (`deb(5)`).

use std::io;
use tar::{Builder, EntryType, Header};

/// One entry of a package: a name, and what it is.
pub struct Entry<'a> {
    pub name: &'static str,
    pub mode: u32,
    pub owner: (u64, u64),
    pub what: What<'a>,
}

pub enum What<'a> {
    Directory,
    File(&'a str),
    HardLink(&'static str),
    /// `/dev/null` by another name.
    Device,
}

impl<'a> Entry<'a> {
    /// An entry that is root's.
    pub fn new(name: &'static str, mode: u32, what: What<'a>) -> Self {
        Self { name, mode, owner: (0, 0), what }
    }

    fn append(&self, archive: &mut Builder<Vec<u8>>) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        let content = if let What::File(content) = self.what { content.as_bytes() } else { &[] };
        header.set_size(content.len() as u64);
        header.set_entry_type(match self.what {
            What::Directory => EntryType::Directory,
            What::File(_) => EntryType::Regular,
            What::HardLink(_) => EntryType::Link,
            What::Device => EntryType::Char,
        });
        if let What::HardLink(target) = self.what {
            return archive.append_link(&mut header, self.name, target);
        }
        if let What::Device = self.what {
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
        archive.append_data(&mut header, self.name, content)
    }
}

fn archive(entries: &[Entry<'_>]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    entries.iter().try_for_each(|entry| entry.append(&mut archive))?;
    archive.into_inner()
}

/// The package with this name, which says that it was configured when it is.
pub fn package(name: &str, entries: &[Entry<'_>]) -> io::Result<Vec<u8>> {
    let about =
        format!("Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: a test's\n");
    let control = archive(&[
        Entry::new("control", 0o644, What::File(&about)),
        Entry::new("postinst", 0o755, What::File("#!/bin/sh\necho configured\n")),
    ])?;
    let mut package = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", b"2.0\n".to_vec()), ("control.tar", control), ("data.tar", archive(entries)?)] {
        // Name, time, owner, group, mode, size; all of these have even sizes, which ar(5) would pad to.
        package.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).into_bytes());
        package.extend(content);
    }
    Ok(package)
}
