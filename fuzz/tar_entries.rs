// The tests of the `fuzz` modules include this file.

/// Appends entries to an archive: path, kind, target of a link, and content.
fn append_entries(archive: &mut tar::Builder<Vec<u8>>, entries: &[(&str, tar::EntryType, &str, &[u8])]) {
    for (path, kind, link, data) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        archive.append(&header, *data).unwrap();
    }
}
